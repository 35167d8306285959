"""Extracts features of all images of a source into a table; see --help."""

import sys

from bottleneck.cli import run_job
from bottleneck.extraction.config import ExtractConfig
from bottleneck.extraction.job import extract
from bottleneck.extraction.maintenance import maintain
from bottleneck.incremental.summary import Summary


def run(config: ExtractConfig) -> Summary:
    """Runs the step that the flags ask for."""
    return maintain(config) if config.maintenance else extract(config)


if __name__ == "__main__":
    sys.exit(run_job(ExtractConfig, run))
