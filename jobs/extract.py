"""Extracts features of all images of a source into a table; see --help."""

import sys

from bottleneck.__main__ import run

if __name__ == "__main__":
    sys.exit(run("extract"))
