"""Fits a dense head on the features of a table and writes a model; see --help."""

import sys

from bottleneck.cli import run_job
from bottleneck.training.config import TrainConfig
from bottleneck.training.job import train

if __name__ == "__main__":
    sys.exit(run_job(TrainConfig, train))
