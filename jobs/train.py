"""Fits a dense head on the features of a table and writes a model; see --help."""

import sys

from bottleneck.__main__ import run

if __name__ == "__main__":
    sys.exit(run("train"))
