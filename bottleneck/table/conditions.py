"""Checks of what a reader asks for: names of columns, and conditions on rows."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from bottleneck.console.redaction import redact_uri
from bottleneck.errors import TableError

_PLACE = "place in the table"


def require_columns(columns: Iterable[str], schema: pa.Schema, table_uri: str) -> list[str]:
    """Returns the names of small columns that a table has.

    Args:
        columns: The names wanted.
        schema: Columns of the table.
        table_uri: The table, for messages.

    Raises:
        TableError: A column does not exist, or it is `features`.
    """
    # A single name is a sequence of letters.
    names = [columns] if isinstance(columns, str) else list(columns)
    for name in names:
        if name not in schema.names:
            raise TableError(_no_such(name, schema, table_uri))
    if "features" in names:
        raise TableError(
            f"`features` of {redact_uri(table_uri)} cannot be read with .read(), which returns "
            "small columns of all rows at once; iterate over .batches(), or call "
            ".to_numpy(pool='avg')"
        )
    return names


def columns_of(where: pc.Expression, schema: pa.Schema, table_uri: str) -> list[str]:
    """Returns the names of the columns that a condition is about.

    Args:
        where: The condition.
        schema: Small columns of the table.
        table_uri: The table, for messages.

    Raises:
        TableError: It is no condition, or not one on these columns.
    """
    if not isinstance(where, pc.Expression):
        raise TableError(
            f"where is {where!r}; give a pyarrow expression such as "
            'pyarrow.compute.field("split") == "train"'
        )
    empty = schema.empty_table()
    try:
        empty.filter(where)
    except (pa.ArrowException, TypeError) as e:
        text = " ".join(str(e).split())
        missing = re.search(r"No match for FieldRef\.Name\((.*?)\) in", text)
        if missing and missing[1] == "features":
            problem = (
                "where cannot look at `features`; the rows that have them are those with "
                "`status` ok"
            )
        elif missing:
            problem = _no_such(missing[1], schema, table_uri)
        else:
            problem = (
                f"where={where} does not fit the columns of {redact_uri(table_uri)}: {text[:300]}"
            )
        raise TableError(problem) from e
    return [name for name in schema.names if _needs(where, empty.drop_columns([name]))]


def _needs(where: pc.Expression, without: pa.Table) -> bool:
    """Returns whether a condition cannot be evaluated without the column that was taken away."""
    try:
        without.filter(where)
    except pa.ArrowException:
        return True
    return False


def _no_such(name: str, schema: pa.Schema, table_uri: str) -> str:
    near = difflib.get_close_matches(name, schema.names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return (
        f"{redact_uri(table_uri)} has no column {name!r}; {hint}"
        f"its columns are {', '.join(schema.names)}"
    )


def matching(rows: pa.Table, where: pc.Expression) -> npt.NDArray[np.int64]:
    """Returns the places of the rows that meet a condition, (M,) int64, ascending."""
    place = pa.array(np.arange(rows.num_rows))
    met = rows.append_column(_PLACE, place).filter(where)[_PLACE]
    # Arrow evaluates conditions in threads.
    return np.sort(met.to_numpy())
