"""The status job: what a features table holds and what its runs did."""

from __future__ import annotations

from bottleneck.status.charts import draw, page
from bottleneck.status.config import StatusConfig
from bottleneck.status.history import Status, table_status
from bottleneck.storage.files import write_bytes
from bottleneck.storage.uris import normalize_uri


def show_status(config: StatusConfig) -> Status:
    """Reads the status of a table, and draws it if asked to.

    Args:
        config: What to do.

    Returns:
        The status.

    Raises:
        BottleneckError: There is no such table, or storage refuses.
    """
    status = table_status(config)
    if config.plot is not None:
        picture = page(status) if config.plot_suffix == ".html" else draw(status)
        write_bytes(normalize_uri(config.plot), picture)
    return status
