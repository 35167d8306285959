"""Prints what a features table holds and what its runs did; see --help."""

import sys
from collections.abc import Sequence

from bottleneck.config.parsing import parse
from bottleneck.console.redaction import redact_text
from bottleneck.errors import BottleneckError
from bottleneck.status.charts import draw, page
from bottleneck.status.config import StatusConfig
from bottleneck.status.history import table_status
from bottleneck.storage.files import write_bytes
from bottleneck.storage.uris import normalize_uri


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job; returns 0, or 2 after an error, which is one line on standard error."""
    try:
        config = parse(StatusConfig, sys.argv[1:] if argv is None else argv)
        status = table_status(config)
        print(status.to_json() if config.json else status.to_text() + "\n", end="", flush=True)
        if config.plot is not None:
            picture = page(status) if config.plot_suffix == ".html" else draw(status)
            write_bytes(normalize_uri(config.plot), picture)
    except BottleneckError as e:
        print(f"error: {redact_text(str(e))}", file=sys.stderr, flush=True)
        return e.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
