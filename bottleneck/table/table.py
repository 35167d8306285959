"""Tables of features and of predictions: one row per image, in a Delta Lake table.

Workers write Parquet shards under unique names (:mod:`bottleneck.table.shards`) that nobody sees;
the driver makes them visible with one commit (:meth:`ImageTable.commit`). Readers always see
whole snapshots. This module needs neither Ray nor Keras.
"""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Self

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from bottleneck.console.redaction import redact_uri
from bottleneck.errors import ConflictError, TableError
from bottleneck.spec import FeatureSpec, PredictionSpec
from bottleneck.storage.uris import is_local
from bottleneck.table.actions import changes, require_written, shards_of
from bottleneck.table.location import (
    delta_uri,
    require_empty,
    require_readable_name,
    table_exists,
    unreachable,
)
from bottleneck.table.log import (
    APP_ID,
    COMMIT_KEY,
    RUN_KEY,
    STATS_KEY,
    CommitRecord,
    LeaseMark,
    TableLog,
    log_entry,
)
from bottleneck.table.schemas import SCHEMAS
from bottleneck.table.shards import Shard
from bottleneck.table.snapshot import Snapshot

#: Key in the table's properties of the identity of its creation.
CREATION_KEY = "bottleneck.creation"

#: Column statistics are kept for `image` alone: minima and maxima of 25,088-long lists and of
#: hashes only make the log longer. `delta.logRetentionDuration` bounds what a long history costs.
_PROPERTIES = {"delta.dataSkippingStatsColumns": "image"}


class ImageTable:
    """A table of one kind at a URI: a local folder, ``s3://``, ``gs://`` or ``abfs://``.

    Credentials and endpoints come from the environment (``AWS_ACCESS_KEY_ID``,
    ``AWS_ENDPOINT_URL``, …); plain http needs ``AWS_ALLOW_HTTP=true``.
    """

    spec_type: ClassVar[type[FeatureSpec]]

    def __init__(self, uri: str, delta: DeltaTable) -> None:
        self.uri = uri
        self._log = TableLog(uri, delta)

    @property
    def log(self) -> TableLog:
        """The table's log, which a run's lease is written to."""
        return self._log

    @classmethod
    def open(cls, uri: str) -> Self:
        """Opens an existing table.

        Raises:
            TableError: Nothing is there, it cannot be read, or it is not a features table.
        """
        table = cls.find(uri)
        if table is None:
            raise TableError(
                f"there is no {cls.spec_type.kind} table at {redact_uri(uri)}; make one with "
                f"{cls.spec_type.made_by} (--{cls.spec_type.kind}), or check the address"
            )
        return table

    @classmethod
    def find(cls, uri: str) -> Self | None:
        """Opens the table if there is one.

        Returns:
            The table, or None when the place is free.

        Raises:
            TableError: The place cannot be read or holds something else.
        """
        try:
            require_readable_name(uri)
            delta = DeltaTable(delta_uri(uri))
        except TableNotFoundError:
            require_empty(uri)
            return None
        except (DeltaError, OSError, ValueError) as e:
            if is_local(uri) and Path(uri).is_file():
                raise TableError(f"{uri} is a file; a table needs a folder") from e
            raise TableError(unreachable(uri, e)) from e
        table = cls(uri, delta)
        table._spec(delta)
        return table

    @classmethod
    def create(cls, uri: str, spec: FeatureSpec, mark: LeaseMark | None = None) -> Self:
        """Creates an empty table for one feature specification.

        Args:
            uri: Where.
            spec: How all its features will be computed.
            mark: The lease of the run that creates it.

        Raises:
            ConflictError: Another run created it in the meantime.
            TableError: The place cannot be written.
        """
        creation = uuid.uuid4().hex
        try:
            delta = DeltaTable.create(
                delta_uri(uri),
                SCHEMAS[cls.spec_type.kind],
                configuration={**_PROPERTIES, **spec.to_properties(), CREATION_KEY: creation},
                # A retry would land on top of the other's table and change its specification.
                commit_properties=log_entry({}, None, mark),
                raise_if_key_not_exists=False,
            )
            # Of two that create it at once delta-rs lets both believe that they did.
            first = DeltaTable(delta_uri(uri), version=0).metadata().configuration
        except (DeltaError, OSError, ValueError) as e:
            if table_exists(uri):
                raise ConflictError(
                    f"another run created {redact_uri(uri)} at the same moment; run again"
                ) from e
            raise TableError(unreachable(uri, e)) from e
        if first.get(CREATION_KEY) != creation:
            raise ConflictError(
                f"another run created {redact_uri(uri)} at the same moment; run again"
            )
        return cls(uri, delta)

    def refresh(self) -> None:
        """Moves to the table's newest version."""
        self._log.refresh()

    def snapshot(self, *, version: int | None = None, as_of: datetime | None = None) -> Snapshot:
        """Returns the table at its newest version, or as it was.

        Args:
            version: An earlier Delta version.
            as_of: A moment, with a time zone; the newest version not after it is taken.

        Raises:
            TableError: There is no such version (any more).
        """
        delta = self._log.delta
        if version is not None or as_of is not None:
            delta = self._log.at(version if version is not None else as_of)
        return Snapshot(
            table_uri=self.uri,
            version=delta.version(),
            spec=self._spec(delta),
            shards=shards_of(delta),
            app_version=delta.transaction_version(APP_ID) or 0,
        )

    def _spec(self, delta: DeltaTable) -> FeatureSpec:
        try:
            return self.spec_type.from_properties(delta.metadata().configuration)
        except TableError as e:
            raise TableError(f"{redact_uri(self.uri)}: {e}") from e

    def commit(
        self,
        *,
        base: Snapshot,
        add: Sequence[Shard] = (),
        remove: Sequence[Shard] = (),
        run: str,
        stats: Mapping[str, Any] | None = None,
        mark: LeaseMark | None = None,
    ) -> Snapshot:
        """Makes shards visible and others disappear, all at once.

        Args:
            base: The snapshot that the change was planned from.
            add: Shards that workers wrote; each must exist with the size given.
            remove: Shards of `base` that the added ones replace.
            run: Identity of the run.
            stats: Figures kept in the history, JSON serializable.
            mark: What becomes of the run's lease with this commit, see
                :mod:`bottleneck.table.lease`.

        Returns:
            The new snapshot.

        Raises:
            ConflictError: Somebody committed after `base`, or a removed shard is gone; nothing
                was applied.
            TableError: Storage refused the commit; nothing was applied.
        """
        require_written(self.uri, add)
        commit_id = uuid.uuid4().hex
        self._log.append(
            changes(add, remove, int(time.time() * 1000)),
            {COMMIT_KEY: commit_id, RUN_KEY: run, STATS_KEY: json.dumps(dict(stats or {}))},
            app_version=base.app_version + 1,
            mark=mark,
            require_current=lambda: self._require_current(base, remove),
        )
        self.refresh()
        snapshot = self.snapshot()
        if snapshot.app_version == base.app_version + 1:
            return snapshot
        # Somebody else has committed since: our next commit will find that, this one stands.
        return self.snapshot(version=self._log.version_of(commit_id))

    def _require_current(self, base: Snapshot, remove: Sequence[Shard]) -> None:
        current = self._log.app_version == base.app_version
        if current and remove:
            present = {shard.path for shard in shards_of(self._log.delta)}
            current = all(shard.path in present for shard in remove)
        if not current:
            raise ConflictError(self._log.conflict())

    def vacuum(self, days: float) -> int:
        """Deletes files that no version of the last `days` days needs, orphans included.

        A run that is under way has files that no version names yet: `days` must be longer than
        the longest run, and than anybody reads an old version.

        Returns:
            Number of files deleted.

        Raises:
            TableError: Storage refuses.
        """
        self.refresh()
        try:
            return len(
                self._log.delta.vacuum(
                    retention_hours=math.ceil(days * 24),
                    dry_run=False,
                    enforce_retention_duration=False,
                    full=True,
                )
            )
        except (DeltaError, OSError) as e:
            raise TableError(unreachable(self.uri, e)) from e

    def commits(self, limit: int | None = None) -> list[CommitRecord]:
        """Returns this package's commits that the log still knows, newest first.

        Args:
            limit: Number of entries of the log to look at, of other tools too; all when not given.

        Raises:
            TableError: Storage refuses.
        """
        return self._log.commits(limit)


class FeaturesTable(ImageTable):
    """A table of features; see :class:`ImageTable`."""

    spec_type: ClassVar[type[FeatureSpec]] = FeatureSpec


class PredictionsTable(ImageTable):
    """A table of predictions; see :class:`ImageTable`."""

    spec_type: ClassVar[type[FeatureSpec]] = PredictionSpec
