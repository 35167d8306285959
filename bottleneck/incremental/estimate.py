"""Expected time and cost of planned work, from the throughput that earlier commits recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bottleneck.console.formatting import format_bytes, format_duration
from bottleneck.incremental.plan import Plan
from bottleneck.spec import FeatureSpec
from bottleneck.table.columns import encoded_row_bytes
from bottleneck.table.log import CommitRecord

#: Number of newest commits whose throughput is used; the median ignores the odd slow night.
_COMMITS = 20


@dataclass(frozen=True)
class Estimate:
    """Expected cost of a plan.

    Attributes:
        images: Number of images that the backbone would compute.
        bytes_to_read: Bytes of these images, as far as the listing knows.
        growth_bytes: Bytes that the table would grow by.
        images_per_node_s: Images per second and node that earlier commits recorded; None without
            any.
        node_hours: Expected hours of one node; None without a recorded throughput.
        seconds: Expected time on the nodes that the recorded runs had; None likewise.
        cost: Cost of `node_hours` at the given price; None without either.
    """

    images: int
    bytes_to_read: int
    growth_bytes: int
    images_per_node_s: float | None
    node_hours: float | None
    seconds: float | None
    cost: float | None

    def to_rows(self) -> dict[str, str]:
        """Returns the rows of the summary, text by name."""
        unknown = "unknown: no commit of this table has recorded a throughput yet"
        rows = {
            "to compute": f"{self.images:,} images",
            "to read": format_bytes(self.bytes_to_read),
            "table growth": f"about {format_bytes(self.growth_bytes)}",
            "expected time": unknown,
        }
        if self.seconds is not None and self.node_hours is not None:
            rows["expected time"] = (
                f"about {format_duration(self.seconds)} "
                f"({self.images_per_node_s:,.1f} images/s per node, "
                f"{self.node_hours:.2f} node-hours)"
            )
        if self.cost is not None:
            rows["expected cost"] = f"about {self.cost:,.2f}"
        return rows


def estimate_run(
    plan: Plan,
    spec: FeatureSpec,
    commits: Sequence[CommitRecord],
    node_hour_price: float | None,
) -> Estimate:
    """Estimates the time and cost of a plan.

    Args:
        plan: The plan.
        spec: Specification of the features that will be computed.
        commits: Earlier commits, newest first.
        node_hour_price: Price per node and hour, in any currency; None if unknown.
    """
    images = plan.work.num_rows
    adding = images - plan.changed - plan.retried
    snapshot = plan.snapshot
    row_bytes = encoded_row_bytes(spec) if snapshot is None else snapshot.row_bytes
    recorded = [
        (float(record.stats["images_per_s"]), int(record.stats["nodes"]))
        for record in commits
        if record.stats.get("images_per_s") and record.stats.get("nodes")
    ][:_COMMITS]
    growth = round(row_bytes * (adding - plan.removed))
    if not recorded:
        return Estimate(images, plan.bytes_to_read, growth, None, None, None, None)
    rates = sorted(rate / nodes for rate, nodes in recorded)
    rate = rates[len(rates) // 2]
    node_hours = images / rate / 3600
    return Estimate(
        images=images,
        bytes_to_read=plan.bytes_to_read,
        growth_bytes=growth,
        images_per_node_s=rate,
        node_hours=node_hours,
        seconds=images / (rate * recorded[0][1]),
        cost=None if node_hour_price is None else node_hours * node_hour_price,
    )
