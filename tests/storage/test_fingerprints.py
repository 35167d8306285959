"""The grammar of fingerprints: exact texts, since tables hold them, and reading them back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from bottleneck.storage import fingerprints

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def meta(e_tag: str | None, size: int, moment: datetime) -> dict[str, Any]:
    return {"e_tag": e_tag, "size": size, "last_modified": moment}


OBJECTS = {
    "etag:9a0364b9e99bb480dd25e1f0284c8555": meta('"9a0364b9e99bb480dd25e1f0284c8555"', 7, EPOCH),
    "etag:9a03-12": meta("9a03-12", 7, EPOCH),  # of several parts, without quotes
    "etag:0x8DC": meta('W/"0x8DC"', 7, EPOCH),  # weak
    'etag:a"b': meta('"a"b"', 7, EPOCH),
    "size+mtime:7-0": meta(None, 7, EPOCH),
    "size+mtime:0-1700000000000000000": meta("", 0, EPOCH + timedelta(seconds=1_700_000_000)),
    # A listing tells milliseconds, a HEAD whole seconds: both are cut, none is rounded up.
    "size+mtime:1-1700000000000000000": meta(
        None, 1, EPOCH + timedelta(seconds=1_700_000_000, milliseconds=999)
    ),
    "size+mtime:9223372036854775807-1000000000": meta(
        None, 2**63 - 1, EPOCH + timedelta(microseconds=1_999_999)
    ),
    "size+mtime:2--2000000000": meta(None, 2, EPOCH - timedelta(milliseconds=1500)),
}


@pytest.mark.parametrize(("text", "answer"), OBJECTS.items())
def test_the_fingerprint_of_an_object(text: str, answer: dict[str, Any]) -> None:
    assert fingerprints.object_fingerprint(answer) == text


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_a_column_of_objects_has_the_same_fingerprints(unit: Any) -> None:
    listed = pl.DataFrame(
        list(OBJECTS.values()),
        schema={"e_tag": pl.String, "size": pl.UInt64, "last_modified": pl.Datetime("us", "UTC")},
    ).with_columns(pl.col("last_modified").cast(pl.Datetime(unit, "UTC")))
    assert listed.select(fingerprints.object_fingerprints()).to_series().to_list() == list(OBJECTS)


def test_the_fingerprint_of_a_file() -> None:
    assert fingerprints.mtime_fingerprint(20_480, 1_700_000_000_123_456_789) == (
        "size+mtime:20480-1700000000123456789"
    )


@pytest.mark.parametrize(
    ("archive", "first_byte", "size", "text"),
    [
        ("etag:1", 512, 0, "etag:1@512+0"),
        ("size+mtime:30720-1", 1024, 100, "size+mtime:30720-1@1024+100"),
        ("etag:a@7+8", 2**40, 2**33, "etag:a@7+8@1099511627776+8589934592"),
    ],
)
def test_the_fingerprint_of_a_tar_member_and_what_it_tells(
    archive: str, first_byte: int, size: int, text: str
) -> None:
    assert fingerprints.member_fingerprint(archive, first_byte, size) == text
    members = pl.DataFrame({"offset": [first_byte], "bytes": [size]})
    made = members.select(fingerprint=fingerprints.member_fingerprints(archive, "offset", "bytes"))
    assert made.to_dicts() == [{"fingerprint": text}]
    read = made.select(
        member=fingerprints.are_members(),
        archive=fingerprints.archives_of(),
        first_byte=fingerprints.first_bytes_of(),
        size=fingerprints.sizes_of(),
        etag=fingerprints.are_etags(),
    )
    expected = {"member": True, "archive": archive, "first_byte": first_byte, "size": size}
    assert read.to_dicts() == [expected | {"etag": False}]
    assert read.schema["first_byte"] == read.schema["size"] == pl.Int64


def test_what_the_fingerprints_of_whole_files_tell() -> None:
    expected = [
        {"text": "etag:9a03", "member": False, "first_byte": None, "size": None, "etag": True},
        {"text": "etag:", "member": False, "first_byte": None, "size": None, "etag": True},
        {"text": "etag:a@b", "member": False, "first_byte": None, "size": None, "etag": False},
        {"text": "size+mtime:12-7", "member": False, "first_byte": None, "size": 12, "etag": False},
        {"text": "size+mtime:2--5", "member": False, "first_byte": None, "size": 2, "etag": False},
        {
            "text": "sizeemtime:2-5",
            "member": False,
            "first_byte": None,
            "size": None,
            "etag": False,
        },
        {"text": "list:v1", "member": False, "first_byte": None, "size": None, "etag": False},
        {"text": "list:etag:1", "member": False, "first_byte": None, "size": None, "etag": False},
        {"text": "missing", "member": False, "first_byte": None, "size": None, "etag": False},
        {"text": None, "member": None, "first_byte": None, "size": None, "etag": None},
    ]
    column = pl.DataFrame({"text": [row["text"] for row in expected]})
    read = column.select(
        "text",
        member=fingerprints.are_members("text"),
        first_byte=fingerprints.first_bytes_of("text"),
        size=fingerprints.sizes_of("text"),
        etag=fingerprints.are_etags("text"),
    )
    assert read.to_dicts() == expected


def test_the_etag_of_an_object_is_bare_and_others_have_none() -> None:
    made = fingerprints.etag_fingerprint('W/"9a03-12"')
    assert made == "etag:9a03-12"
    assert fingerprints.etag_of(made) == "9a03-12"
    others = ("size+mtime:12-7", "list:etag:9a03-12", fingerprints.MISSING_FINGERPRINT)
    assert [fingerprints.etag_of(text) for text in others] == [None, None, None]


def test_a_list_gives_fingerprints_that_are_told_from_others() -> None:
    given = pl.DataFrame({"fingerprint": ["v1", "", None, "etag:9a03"]})
    made = given.select(fingerprints.list_fingerprints("fingerprint")).to_series().to_list()
    assert made == ["list:v1", "list:", None, "list:etag:9a03"]
    assert [fingerprints.is_from_list(text) for text in made] == [True, True, False, True]
    assert not fingerprints.is_from_list("etag:9a03")


def test_rows_of_a_features_table_are_known_by_status_and_content() -> None:
    rows = pl.DataFrame(
        {
            "status": ["ok", "missing", "unreadable"],
            "sha256": ["5feceb66", None, None],
            "fingerprint": ["etag:1", "missing", None],
        }
    )
    made = rows.select(fingerprints.row_fingerprints()).to_series().to_list()
    assert made == ["ok:5feceb66", "missing:missing", "unreadable:"]
