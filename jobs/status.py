"""Prints what a features table holds and what its runs did; see --help."""

import sys

from bottleneck.__main__ import run

if __name__ == "__main__":
    sys.exit(run("status"))
