"""Applies a trained model to images or to a features table; see --help."""

import sys

from bottleneck.__main__ import run

if __name__ == "__main__":
    sys.exit(run("predict"))
