"""List files: CSV, JSON Lines or Parquet that name the images one by one.

Columns: ``uri`` (absolute, or relative to the list file); optional ``image`` (identity; default
the ``uri`` as written, without passwords and signatures), ``label``, ``split`` and ``fingerprint``.
Other columns are ignored. Without a fingerprint in the list each image is looked up: a stat for a
local file, one HEAD request for an object.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import polars as pl
import pyarrow as pa

from bottleneck.console.redaction import one_line, redact_uri
from bottleneck.errors import SourceError
from bottleneck.sources.rows import Tally
from bottleneck.sources.rules import canonical_split
from bottleneck.storage.files import open_input, read_bytes, stat_uri
from bottleneck.storage.fingerprints import MISSING_FINGERPRINT, list_fingerprints
from bottleneck.storage.uris import identity_of, is_local, resolve_uri

#: Extensions of list files.
LIST_EXTENSIONS = ("csv", "jsonl", "ndjson", "json", "parquet")

_COLUMNS = ("uri", "image", "label", "split", "fingerprint")
_JSON_ROWS = 65_536
_STAT_ROWS = 4096
_STAT_SCHEMA = {"own": pl.String, "bytes": pl.Int64}


def is_list_uri(uri: str) -> bool:
    """Returns whether the name is that of a list file."""
    return uri.rpartition("/")[2].rpartition(".")[2].lower() in LIST_EXTENSIONS


def read_list(uri: str, tally: Tally, concurrency: int) -> pl.DataFrame:
    """Reads the listing rows of all images in a list file; their extensions do not matter.

    An image that does not exist keeps its row, with the fingerprint ``missing``, so that it ends
    in the table with the status ``missing``. A fingerprint that the list gives gets the prefix
    ``list:``.

    Args:
        uri: Normalized URI of the list file.
        tally: Counters of requests.
        concurrency: Maximum number of stats and HEAD requests in flight.

    Raises:
        SourceError: The list cannot be read, is malformed, has no column ``uri`` or an empty one.
    """
    rows = read_rows(uri)
    if not is_local(uri):
        tally.add_requests()
    empty = rows.get_column("uri").fill_null("").str.strip_chars() == ""
    if empty.any():
        raise SourceError(
            f"{redact_uri(uri)}: row {int(empty.arg_true()[0]) + 1} has an empty uri; every row "
            "must name an image"
        )
    folder = uri.rpartition("/")[0]
    written = rows.get_column("uri")
    uris = pl.Series("uri", [resolve_uri(folder, text) for text in written], dtype=pl.String)
    names = [identity_of(text, found) for text, found in zip(written, uris, strict=True)]
    rows = rows.with_columns(
        uris,
        pl.coalesce("image", pl.Series("named", names, dtype=pl.String)).alias("image"),
        list_fingerprints("fingerprint").alias("fingerprint"),
    )
    found = _stat_all(rows, tally, concurrency)
    return rows.with_columns(found).select(
        "image",
        "uri",
        "label",
        canonical_split().alias("split"),
        pl.coalesce("fingerprint", "own").alias("fingerprint"),
        "bytes",
        pl.lit(None, dtype=pl.Int64).alias("offset"),
    )


def _stat_all(rows: pl.DataFrame, tally: Tally, concurrency: int) -> list[pl.Series]:
    """Returns columns ``own`` (fingerprint) and ``bytes``; null if the list has a fingerprint."""

    def stat_one(uri: str) -> tuple[str, int | None]:
        if not is_local(uri):
            tally.add_requests()
        found = stat_uri(uri)
        return (
            (MISSING_FINGERPRINT, None) if found is None else (found.fingerprint, found.size_bytes)
        )

    known = rows.get_column("fingerprint").is_not_null()
    parts: list[pl.DataFrame] = []
    with ThreadPoolExecutor(concurrency, thread_name_prefix="stat") as pool:
        # In slices: a future takes 2 kB, and all of them at once 20 GB for ten million images.
        for start in range(0, len(rows), _STAT_ROWS):
            uris = rows.get_column("uri").slice(start, _STAT_ROWS)
            answers = pool.map(stat_one, uris.filter(~known.slice(start, _STAT_ROWS)))
            values = [
                (None, None) if given else next(answers) for given in known.slice(start, _STAT_ROWS)
            ]
            parts.append(pl.DataFrame(values, schema=_STAT_SCHEMA, orient="row"))
    found = pl.concat(parts) if parts else pl.DataFrame(schema=_STAT_SCHEMA)
    return [found.get_column(name) for name in _STAT_SCHEMA]


def read_rows(uri: str, required: str = "uri") -> pl.DataFrame:
    """Reads the list's columns as text; columns that it lacks are null.

    Raises:
        SourceError: It cannot be read, is malformed, has no row, or lacks the required column.
    """
    extension = uri.rpartition(".")[2].lower()
    try:
        if extension == "csv":
            frames = [_read_csv(uri, required)]
        elif extension == "parquet":
            frames = [_read_parquet(uri, required)]
        else:
            frames = list(_read_json(uri, required))
    except SourceError:
        raise
    except (ValueError, pa.ArrowException, pl.exceptions.PolarsError) as e:
        names = {"csv": "CSV", "parquet": "Parquet"}
        raise SourceError(
            f"{redact_uri(uri)} is not well-formed {names.get(extension, 'JSON Lines')}: "
            f"{one_line(e)}"
        ) from e
    if not frames or not sum(frame.height for frame in frames):
        raise SourceError(f"{redact_uri(uri)} lists no image; it must have one row per image")
    return pl.concat(frames)


def _checked(uri: str, columns: list[str], required: str) -> list[str]:
    if required not in columns:
        others = ", ".join(name for name in _COLUMNS if name != required)
        raise SourceError(
            f"{redact_uri(uri)} has no column {required!r}; it has {', '.join(columns) or 'none'}; "
            f"name the images in a column {required!r} (optional: {others})"
        )
    return [name for name in _COLUMNS if name in columns]


def _as_text(frame: pl.DataFrame) -> pl.DataFrame:
    have = [pl.col(name).cast(pl.String) for name in frame.columns]
    lack = [pl.lit(None, pl.String).alias(name) for name in _COLUMNS if name not in frame.columns]
    return frame.with_columns(have + lack).select(_COLUMNS)


def _read_csv(uri: str, required: str) -> pl.DataFrame:
    import pyarrow.csv as pa_csv

    data = read_bytes(uri)
    with pa_csv.open_csv(io.BytesIO(data)) as reader:
        columns = reader.schema.names
    names = _checked(uri, columns, required)
    # Text as it stands: a label "NA" or "007" is neither null nor a number; an empty field is null.
    options = pa_csv.ConvertOptions(
        include_columns=names,
        column_types={name: pa.string() for name in names},
        null_values=[""],
        strings_can_be_null=True,
    )
    parsing = pa_csv.ParseOptions(newlines_in_values=True)
    table = pa_csv.read_csv(io.BytesIO(data), convert_options=options, parse_options=parsing)
    return _as_text(pl.DataFrame(table))


def _read_parquet(uri: str, required: str) -> pl.DataFrame:
    import pyarrow.parquet as pq

    with open_input(uri) as source, pq.ParquetFile(source) as file:
        names = _checked(uri, file.schema_arrow.names, required)
        table = file.read(columns=names)
    # Without the fields' metadata, which strangers may have written and Polars reads as UTF-8.
    plain = pa.Table.from_arrays(table.columns, names=table.column_names)
    return _as_text(pl.DataFrame(plain))


def _read_json(uri: str, required: str) -> Iterator[pl.DataFrame]:
    """Reads JSON Lines, or one JSON array of objects."""
    with open_input(uri) as source:
        lines: Iterator[Any] = enumerate(source, 1)
        first = source.read(1)
        source.seek(0)
        if first == b"[":
            lines = enumerate(json.loads(source.read()), 1)
        columns: dict[str, list[str | None]] = {name: [] for name in _COLUMNS}
        for number, line in lines:
            if isinstance(line, bytes) and not line.strip():
                continue
            row = _parse_json(uri, number, line, required)
            for name, values in columns.items():
                value = row.get(name)
                plain = value is None or isinstance(value, str)
                values.append(value if plain else json.dumps(value))
            if len(columns["uri"]) == _JSON_ROWS:
                yield pl.DataFrame(columns, schema=dict.fromkeys(_COLUMNS, pl.String))
                columns = {name: [] for name in _COLUMNS}
        yield pl.DataFrame(columns, schema=dict.fromkeys(_COLUMNS, pl.String))


def _parse_json(uri: str, number: int, line: Any, required: str) -> dict[str, Any]:
    try:
        row = json.loads(line) if isinstance(line, bytes) else line
    except ValueError as e:
        raise SourceError(
            f"{redact_uri(uri)} is not well-formed JSON Lines: line {number}: {e}"
        ) from e
    if not isinstance(row, dict):
        raise SourceError(
            f"{redact_uri(uri)} is not well-formed JSON Lines: line {number} is not an object; "
            'write one {"uri": …} per line'
        )
    if required not in row:
        _checked(uri, list(row), required)
    return row
