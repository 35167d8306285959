"""Applies a trained model to images or to a features table; see --help."""

import sys

from bottleneck.cli import run_job
from bottleneck.prediction.config import PredictConfig
from bottleneck.prediction.job import predict

if __name__ == "__main__":
    sys.exit(run_job(PredictConfig, predict))
