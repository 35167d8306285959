"""The plan: every way in which a source and a table can differ, and counts that add up."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from benchmarks.support.specs import make_spec
from bottleneck.incremental.estimate import estimate_run
from bottleneck.incremental.known_archives import Recalled, recall_archives, remember_archives
from bottleneck.incremental.plan import Plan, make_plan
from bottleneck.incremental.work import WORK_SCHEMA
from bottleneck.sources.rows import LISTING_SCHEMA
from bottleneck.table.columns import SCHEMA
from bottleneck.table.files import TableFiles
from bottleneck.table.log import CommitRecord
from bottleneck.table.reading import read_columns
from bottleneck.table.schemas import FEATURES, RowFormat
from bottleneck.table.shards import write_shard
from bottleneck.table.snapshot import Snapshot

SPEC = make_spec((3,), backbone="channel-means", layer="means")
LOCAL = pafs.LocalFileSystem()


def listed(image: str, fingerprint: str | None = None, **more: Any) -> dict[str, Any]:
    """A row of a listing."""
    row = {
        "image": image,
        "uri": f"s3://b/{image}",
        "label": "x",
        "split": None,
        "fingerprint": fingerprint or f"etag:{image}",
        "bytes": 10,
        "offset": None,
    }
    return row | more


def known(image: str, fingerprint: str | None = None, **more: Any) -> dict[str, Any]:
    """A row of the table."""
    row = dict.fromkeys(SCHEMA.names) | {
        "image": image,
        "label": "x",
        "fingerprint": fingerprint or f"etag:{image}",
        "sha256": f"sha of {image}",
        "status": "ok",
    }
    return row | more


def listing(*rows: Mapping[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(sorted(rows, key=lambda row: row["image"]), LISTING_SCHEMA)


def snapshot(root: Path, *tables: list[dict[str, Any]]) -> Snapshot:
    """A snapshot whose shards hold these rows."""
    written = []
    for rows in tables:
        table = pa.Table.from_pylist(sorted(rows, key=lambda row: row["image"]), SCHEMA)
        shard = write_shard(TableFiles(LOCAL, str(root), RowFormat(FEATURES, 3)), [table])
        assert shard is not None
        written.append(shard)
    return Snapshot(str(root), 1, SPEC, tuple(written), 1)


def counted(plan: Plan) -> dict[str, int]:
    names = ("new", "changed", "retried", "reused", "removed", "unchanged", "failed_before")
    return {name: getattr(plan, name) for name in names if getattr(plan, name)}


def work(plan: Plan) -> list[str]:
    found: list[str] = plan.work["image"].to_pylist()
    return found


class Reader:
    """Stands for reading images to hash them; notes which."""

    def __init__(self, digests: Mapping[str, str]) -> None:
        self.digests = digests
        self.asked: list[str] = []

    def __call__(self, rows: pa.Table) -> pa.Table:
        assert rows.schema == WORK_SCHEMA
        images = rows["image"].to_pylist()
        self.asked += images
        found = [image for image in images if image in self.digests]
        digests = [self.digests[image] for image in found]
        schema = pa.schema([("image", pa.string()), ("sha256", pa.string())])
        return pa.table([found, digests], schema=schema)


def test_without_a_table_everything_is_new() -> None:
    rows = [listed("b", bytes=5), listed("a", bytes=None), listed("c", bytes=7)]
    plan = make_plan(listing(*rows), None)
    assert (plan.listed, counted(plan), plan.empty) == (3, {"new": 3}, False)
    assert plan.bytes_to_read == 12
    assert plan.work.schema == WORK_SCHEMA
    assert work(plan) == ["a", "b", "c"]
    assert plan.work["row"].to_pylist() == [0, 1, 2]
    assert plan.work["old_shard"].to_pylist() == [None] * 3


def test_an_empty_table_is_like_none(tmp_path: Path) -> None:
    plan = make_plan(listing(listed("a")), snapshot(tmp_path))
    assert (counted(plan), plan.snapshot) == ({"new": 1}, snapshot(tmp_path))


def test_nothing_to_do(tmp_path: Path) -> None:
    base = snapshot(tmp_path, [known("a"), known("b")], [known("c", status="empty", error="0")])
    plan = make_plan(listing(listed("a"), listed("b"), listed("c")), base)
    assert plan.empty
    assert (counted(plan), plan.bytes_to_read) == ({"unchanged": 3, "failed_before": 1}, 0)
    assert plan.work.schema == WORK_SCHEMA


def test_new_changed_and_removed(tmp_path: Path) -> None:
    base = snapshot(tmp_path, [known("a"), known("c")], [known("d"), known("f"), known("g")])
    rows = [listed("a"), listed("b"), listed("c", "etag:new"), listed("f", "etag:new2")]
    plan = make_plan(listing(*rows), base)
    assert counted(plan) == {"new": 1, "changed": 2, "removed": 2, "unchanged": 1}
    assert plan.drops == {base.shards[1].path: ("d", "g")}
    assert plan.replacements == {}
    # Those that replace a row first, by shard, then the new ones.
    assert work(plan) == ["c", "f", "b"]
    assert plan.work["old_shard"].to_pylist() == [0, 1, None]
    assert plan.work["row"].to_pylist() == [0, 1, 2]
    keeping = make_plan(listing(*rows), base, keep_deleted=True)
    assert counted(keeping) == {"new": 1, "changed": 2, "unchanged": 1}
    assert keeping.drops == {}


def test_work_is_ordered_by_shard_and_then_by_image(tmp_path: Path) -> None:
    names = [f"{i:03d}" for i in range(60)]
    dealt = [names[0::3], names[1::3], names[2::3]]
    base = snapshot(tmp_path, *[[known(name) for name in part] for part in dealt])
    fresh = ["0000", "999", "éa", "z"]
    rows = [listed(name, "etag:other") for name in names] + [listed(name) for name in fresh]
    plan = make_plan(listing(*rows), base)
    assert work(plan) == [*dealt[0], *dealt[1], *dealt[2], "0000", "999", "z", "éa"]
    assert plan.work["old_shard"].to_pylist() == [0] * 20 + [1] * 20 + [2] * 20 + [None] * 4


@pytest.mark.parametrize("retry", [False, True])
def test_failed_images(tmp_path: Path, retry: bool) -> None:
    base = snapshot(
        tmp_path,
        [
            known("ok"),
            known("same", status="truncated"),
            known("changed", status="empty"),
            known("relabeled", status="empty"),
            known("gone", status="missing"),
        ],
    )
    rows = [listed("ok"), listed("same"), listed("changed", "etag:2")]
    rows.append(listed("relabeled", label="y"))
    plan = make_plan(listing(*rows), base, retry_failed=retry)
    assert plan.drops == {base.shards[0].path: ("gone",)}
    if retry:
        assert counted(plan) == {"changed": 1, "retried": 2, "removed": 1, "unchanged": 1}
        assert work(plan) == ["changed", "relabeled", "same"]
        assert plan.replacements == {}
    else:
        # `failed_before` counts among the unchanged, where the relabeled one is not.
        assert counted(plan) == {
            "changed": 1,
            "reused": 1,
            "removed": 1,
            "unchanged": 2,
            "failed_before": 1,
        }
        assert work(plan) == ["changed"]
        assert list(plan.replacements[base.shards[0].path]) == ["relabeled"]


def test_new_labels_and_splits_move_no_pixels(tmp_path: Path) -> None:
    base = snapshot(tmp_path, [known("a", label=None), known("b"), known("c", split="test")])
    rows = [listed("a"), listed("b", split="train"), listed("c", label=None, split="test")]
    plan = make_plan(listing(*rows), base)
    assert counted(plan) == {"reused": 3}
    same = {"a": "etag:a", "b": "etag:b", "c": "etag:c"}
    wanted = {"a": ("x", None), "b": ("x", "train"), "c": (None, "test")}
    assert plan.replacements == {
        base.shards[0].path: {
            image: {"image": image, "label": label, "split": split, "fingerprint": same[image]}
            for image, (label, split) in wanted.items()
        }
    }


def test_a_changed_image_takes_its_new_label_with_it(tmp_path: Path) -> None:
    base = snapshot(tmp_path, [known("a")])
    plan = make_plan(listing(listed("a", "etag:2", label="new")), base)
    assert (counted(plan), plan.replacements) == ({"changed": 1}, {})
    assert plan.work["label"].to_pylist() == ["new"]


def test_renamed_objects_are_told_by_their_etag(tmp_path: Path) -> None:
    base = snapshot(tmp_path, [known("a", "etag:1"), known("b", "etag:2")], [known("c", "etag:3")])
    rows = [listed("b", "etag:2"), listed("new/a", "etag:1", label="new"), listed("d", "etag:4")]
    reader = Reader({})
    plan = make_plan(listing(*rows), base, hasher=reader)
    assert counted(plan) == {"new": 1, "reused": 1, "removed": 1, "unchanged": 1}
    assert reader.asked == []
    renamed = {"image": "new/a", "label": "new", "split": None, "fingerprint": "etag:1"}
    assert plan.replacements == {base.shards[0].path: {"a": renamed}}
    assert plan.drops == {base.shards[1].path: ("c",)}
    assert work(plan) == ["d"]
    # What is kept is no rename.
    keeping = make_plan(listing(*rows), base, keep_deleted=True)
    assert counted(keeping) == {"new": 2, "unchanged": 1}


def test_duplicates_are_paired_one_to_one(tmp_path: Path) -> None:
    base = snapshot(tmp_path, [known(n, "etag:same") for n in ("a", "b", "c", "kept")])
    rows = [listed(n, "etag:same") for n in ("kept", "x", "y")]
    plan = make_plan(listing(*rows), base)
    assert counted(plan) == {"reused": 2, "removed": 1, "unchanged": 1}
    (changes,) = plan.replacements.values()
    assert {old: new["image"] for old, new in changes.items()} == {"a": "x", "b": "y"}
    assert plan.drops == {base.shards[0].path: ("c",)}
    # More copies than there were.
    more = [listed(n, "etag:same") for n in ("x", "y", "z", "zz", "zzz")]
    plan = make_plan(listing(*more), base)
    assert counted(plan) == {"new": 1, "reused": 4}
    assert work(plan) == ["zzz"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("etag:1@512+10", "etag:1@512+10"),  # a member of another archive with this ETag
        ("list:7", "list:7"),  # the user's own word for it
    ],
)
def test_only_etags_of_whole_objects_say_that_contents_are_equal(
    tmp_path: Path, old: str, new: str
) -> None:
    base = snapshot(tmp_path, [known("a", old)])
    assert counted(make_plan(listing(listed("b", new)), base)) == {"new": 1, "removed": 1}


def test_a_failed_image_is_not_reused_under_a_new_name(tmp_path: Path) -> None:
    base = snapshot(tmp_path, [known("a", "etag:1", status="empty")])
    plan = make_plan(listing(listed("b", "etag:1")), base)
    assert counted(plan) == {"new": 1, "removed": 1}
    file = "size+mtime:0-1"
    base = snapshot(tmp_path, [known("a", file, status="empty", sha256="s")])
    reader = Reader({"b": "s"})
    assert counted(make_plan(listing(listed("b", file)), base, hasher=reader)) == {
        "new": 1,
        "removed": 1,
    }
    assert reader.asked == []


def test_renamed_files_are_told_by_their_content(tmp_path: Path) -> None:
    base = snapshot(
        tmp_path,
        [known("a", "size+mtime:10-1"), known("b", "size+mtime:20-1")],
        [known("c", "size+mtime:30-1"), known("stays", "size+mtime:40-1")],
    )
    rows = [
        listed("x/a", "size+mtime:10-9", label="new"),
        listed("x/b", "size+mtime:20-1"),
        listed("other size", "size+mtime:99-1"),
        listed("size of the one that stays", "size+mtime:40-1"),
        listed("stays", "size+mtime:40-1"),
    ]
    reader = Reader({"x/a": "sha of a", "x/b": "something else", "other size": "sha of c"})
    plan = make_plan(listing(*rows), base, hasher=reader)
    assert sorted(reader.asked) == ["x/a", "x/b"]
    assert counted(plan) == {"new": 3, "reused": 1, "removed": 2, "unchanged": 1}
    renamed = {"image": "x/a", "label": "new", "split": None, "fingerprint": "size+mtime:10-9"}
    assert plan.replacements == {base.shards[0].path: {"a": renamed}}
    assert plan.drops == {base.shards[0].path: ("b",), base.shards[1].path: ("c",)}
    # Without a reader they are computed again.
    assert counted(make_plan(listing(*rows), base)) == {"new": 4, "removed": 3, "unchanged": 1}


def test_touched_files_keep_their_features(tmp_path: Path) -> None:
    base = snapshot(
        tmp_path,
        [known(n, f"size+mtime:{size}-1") for n, size in (("a", 10), ("b", 10), ("c", 10))],
    )
    rows = [
        listed("a", "size+mtime:10-2", label="new"),
        listed("b", "size+mtime:10-2"),
        listed("c", "size+mtime:11-2"),
    ]
    reader = Reader({"a": "sha of a", "b": "sha of a"})
    plan = make_plan(listing(*rows), base, hasher=reader)
    assert reader.asked == ["a", "b"]
    assert counted(plan) == {"changed": 2, "reused": 1}
    touched = {"image": "a", "label": "new", "split": None, "fingerprint": "size+mtime:10-2"}
    assert plan.replacements == {base.shards[0].path: {"a": touched}}
    assert work(plan) == ["b", "c"]


def test_images_that_cannot_be_read_to_be_hashed_are_computed(tmp_path: Path) -> None:
    base = snapshot(tmp_path, [known("a", "size+mtime:10-1"), known("b", "size+mtime:20-1")])
    rows = [listed("a", "size+mtime:10-2"), listed("moved", "size+mtime:20-1")]
    plan = make_plan(listing(*rows), base, hasher=Reader({}))
    assert counted(plan) == {"new": 1, "changed": 1, "removed": 1}


def test_members_of_a_repacked_archive_keep_their_features(tmp_path: Path) -> None:
    old, new = "size+mtime:5000-1", "size+mtime:7000-2"
    base = snapshot(
        tmp_path,
        [
            known("t.tar/1", f"{old}@512+100"),
            known("t.tar/2", f"{old}@1024+100"),
            known("t.tar/3", f"{old}@2048+100"),
            known("t.tar/4", f"{old}@4096+100"),
        ],
    )
    rows = [
        listed("t.tar/1", f"{new}@512+100"),  # the same
        listed("t.tar/2", f"{new}@1024+100"),  # other bytes of the same length
        listed("t.tar/3", f"{new}@2048+101"),  # another length
        listed("t.tar/5", f"{new}@4096+100"),  # number 4 under a new name
    ]
    reader = Reader({"t.tar/1": "sha of t.tar/1", "t.tar/2": "new", "t.tar/5": "sha of t.tar/4"})
    plan = make_plan(listing(*rows), base, hasher=reader)
    assert sorted(reader.asked) == ["t.tar/1", "t.tar/2", "t.tar/5"]
    assert counted(plan) == {"changed": 2, "reused": 2}
    (changes,) = plan.replacements.values()
    assert {old: change["image"] for old, change in changes.items()} == {
        "t.tar/1": "t.tar/1",
        "t.tar/4": "t.tar/5",
    }
    assert work(plan) == ["t.tar/2", "t.tar/3"]


class Source:
    """A made-up source and what a run over it must leave in the table."""

    def __init__(self, rng: random.Random, kind: str) -> None:
        self.rng = rng
        self.kind = kind
        self.clock = 0
        #: image → (content, label, fingerprint)
        self.files: dict[str, tuple[str, str, str]] = {}

    def fingerprint(self, content: str) -> str:
        if self.kind == "s3":
            return f"etag:{content}"
        self.clock += 1
        return f"size+mtime:{len(content)}-{self.clock}"

    def write(self, image: str, content: str) -> None:
        label = self.rng.choice("pq")
        self.files[image] = (content, label, self.fingerprint(content))

    def mutate(self) -> None:
        rng = self.rng
        image = f"{rng.choice('abé')}{rng.randrange(30)}"
        # Few contents, so that copies are common; failing ones start with "!".
        content = rng.choice(["", "!"]) * (rng.random() < 0.3) + "c" * rng.randrange(1, 9)
        other = rng.choice(sorted(self.files)) if self.files else None
        action = rng.choice(["write", "write", "delete", "rename", "touch", "relabel", "swap"])
        if action == "write" or other is None:
            self.write(image, content + rng.choice("xyz"))
        elif action == "delete":
            del self.files[other]
        elif action == "rename":
            self.files[image] = self.files.pop(other)
        elif action == "touch":
            content, label, _ = self.files[other]
            self.files[other] = (content, label, self.fingerprint(content))
        elif action == "relabel":
            content, _, fingerprint = self.files[other]
            self.files[other] = (content, rng.choice("pqr"), fingerprint)
        elif image in self.files:
            self.files[image], self.files[other] = self.files[other], self.files[image]

    def listing(self) -> pa.Table:
        return listing(
            *[listed(i, f, label=label, bytes=len(c)) for i, (c, label, f) in self.files.items()]
        )


def row_of(image: str, content: str, label: str, fingerprint: str) -> dict[str, Any]:
    ok = not content.startswith("!")
    return known(
        image,
        fingerprint,
        label=label,
        sha256=f"sha of {content}",
        status="ok" if ok else "empty",
    )


@pytest.mark.parametrize("kind", ["s3", "disk"])
@pytest.mark.parametrize("seed", range(120))
def test_plans_carried_out_leave_what_a_first_run_would(
    tmp_path: Path, seed: int, kind: str
) -> None:
    rng = random.Random(f"{seed} {kind}")
    source = Source(rng, kind)
    for _ in range(rng.randrange(40)):
        source.mutate()
    rows = [row_of(image, *told) for image, told in source.files.items()]
    rng.shuffle(rows)
    count = rng.randrange(1, 4)
    parts = [rows[i::count] for i in range(count)]
    base = snapshot(tmp_path, *[part for part in parts if part])
    before = {row["image"]: row for row in rows}
    for _ in range(rng.randrange(12)):
        source.mutate()
    keep_deleted, retry = rng.random() < 0.3, rng.random() < 0.5
    digests = {image: f"sha of {content}" for image, (content, *_) in source.files.items()}
    reader = Reader(digests) if rng.random() < 0.8 else None
    plan = make_plan(
        source.listing(), base, keep_deleted=keep_deleted, retry_failed=retry, hasher=reader
    )

    # Carry it out on plain dictionaries.
    after: dict[str, dict[str, Any]] = {}
    replaced = Counter(plan.work["image"].to_pylist())
    assert not replaced or set(replaced.values()) == {1}
    for shard in base.shards:
        held = read_columns(base.files, shard.path, SCHEMA.names[:-1]).to_pylist()
        dropped = set(plan.drops.get(shard.path, ()))
        renames = plan.replacements.get(shard.path, {})
        assert not dropped & renames.keys()
        assert dropped | renames.keys() <= {row["image"] for row in held}
        for row in held:
            if row["image"] in dropped:
                continue
            taken = [w for w in plan.work.to_pylist() if w["image"] == row["image"]]
            if taken:
                assert base.shards[taken[0]["old_shard"]] == shard
                assert row["image"] not in renames
                continue
            kept = row | renames.get(row["image"], {})
            assert kept["image"] not in after
            after[kept["image"]] = kept
    for todo in plan.work.to_pylist():
        assert todo["image"] not in after
        assert (todo["old_shard"] is None) == (todo["image"] not in before)
        after[todo["image"]] = row_of(todo["image"], *source.files[todo["image"]])
    wanted = {image: row_of(image, *told) for image, told in source.files.items()}
    if keep_deleted:
        wanted = {i: row for i, row in before.items() if i not in source.files} | wanted
    assert {i: [row[c] for c in SCHEMA.names[:-1]] for i, row in after.items()} == {
        i: [row[c] for c in SCHEMA.names[:-1]] for i, row in wanted.items()
    }

    # The counts say the same.
    assert plan.listed == len(source.files)
    assert plan.work.num_rows == plan.new + plan.changed + plan.retried
    assert plan.reused == sum(len(changes) for changes in plan.replacements.values())
    assert plan.removed == sum(len(images) for images in plan.drops.values())
    done = plan.new + plan.changed + plan.retried + plan.reused + plan.unchanged
    assert plan.listed == done
    assert min(plan.new, plan.changed, plan.retried, plan.reused, plan.unchanged) >= 0
    quiet = [
        image
        for image, row in before.items()
        if wanted.get(image) == row and image in source.files and image not in replaced
    ]
    assert plan.unchanged == len(quiet)
    assert plan.failed_before == sum(before[image]["status"] != "ok" for image in quiet)
    assert plan.empty == (not (replaced or plan.drops or plan.replacements))

    # And the plan after it is empty.
    if after:
        (tmp_path / "next").mkdir()
        settled = snapshot(tmp_path / "next", list(after.values()))
        assert make_plan(source.listing(), settled, keep_deleted=keep_deleted).empty


# What is remembered of archives


def test_archives_that_the_table_holds_completely_are_remembered(tmp_path: Path) -> None:
    archives = {
        "a.tar": ("etag:1", 2),
        "b.tar": ("etag:2", 2),
        "sub/c.TAR": ("etag:3", 1),
        "d.tar": ("etag:old", 1),
    }
    base = snapshot(
        tmp_path,
        [known("a.tar/x", "etag:1@512+1"), known("b.tar/x", "etag:2@512+1")],
        [known("a.tar/y/z", "etag:1@1024+1"), known("sub/c.TAR/q", "etag:3@512+1")],
        [known("d.tar/x", "etag:new@512+1"), known("plain.jpg", "etag:9")],
    )
    assert recall_archives(base, "auto") == Recalled()
    remember_archives(str(tmp_path), "auto", archives)
    recalled = recall_archives(base, "auto")
    # b.tar lacks a row, d.tar has become another.
    assert {name: (told, len(rows)) for name, (told, rows) in recalled.archives.items()} == {
        "a.tar": ("etag:1", 2),
        "sub/c.TAR": ("etag:3", 1),
    }
    assert recall_archives(base, "flat") == Recalled()


def test_rows_that_were_read_for_the_archives_are_not_read_for_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = snapshot(
        tmp_path,
        [known("a.tar/x", "etag:1@512+1"), known("b.jpg", "etag:2")],
        [known("c.jpg", "etag:3"), known("d.jpg", "etag:4", status="empty")],
    )
    now = listing(listed("a.tar/x", "etag:1@512+1"), listed("b.jpg", "etag:9"), listed("e.jpg"))
    expected = make_plan(now, base)
    remember_archives(str(tmp_path), "auto", {"a.tar": ("etag:1", 1)})
    recalled = recall_archives(base, "auto")
    monkeypatch.setattr(Snapshot, "read_by_shard", None)
    assert make_plan(now, base, rows=recalled.rows) == expected
    assert (expected.new, expected.changed, expected.removed, expected.unchanged) == (1, 1, 2, 1)


@pytest.mark.parametrize("note", ["", "[]", "{}", "null", '{"layout": "auto"}', "{bad", "\x00"])
def test_a_damaged_note_is_as_good_as_none(tmp_path: Path, note: str) -> None:
    base = snapshot(tmp_path, [known("a.tar/x", "etag:1@512+1")])
    (tmp_path / "_bottleneck").mkdir()
    (tmp_path / "_bottleneck/archives.json").write_text(note)
    assert recall_archives(base, "auto") == Recalled()


def test_a_note_of_another_form_is_as_good_as_none(tmp_path: Path) -> None:
    base = snapshot(tmp_path, [known("a.tar/x", "etag:1@512+1")])
    (tmp_path / "_bottleneck").mkdir()
    for archives in ({"a.tar": "etag:1"}, {"a.tar": ["etag:1"]}, {"a.tar": ["etag:1", "two"]}, []):
        text = json.dumps({"layout": "auto", "archives": archives})
        (tmp_path / "_bottleneck/archives.json").write_text(text)
        assert recall_archives(base, "auto") == Recalled()


# What a plan costs


def record(images_per_s: float, nodes: int = 1, **more: Any) -> CommitRecord:
    return CommitRecord(1, 0.0, "r", {"images_per_s": images_per_s, "nodes": nodes} | more)


def test_estimates_come_from_what_commits_recorded(tmp_path: Path) -> None:
    base = snapshot(tmp_path, [known("a"), known("b")])
    rows = [listed("a", "etag:2"), *[listed(f"n{i}", bytes=100) for i in range(7)]]
    plan = make_plan(listing(*rows), base)
    none = estimate_run(plan, SPEC, [record(0.0), CommitRecord(1, 0.0, "r", {})], 5.0)
    assert (none.images, none.bytes_to_read) == (8, 710)
    # Seven come and one goes; the changed one is exchanged.
    assert none.growth_bytes == round(base.size_bytes / base.rows * 6)
    assert (none.images_per_node_s, none.node_hours, none.seconds, none.cost) == (None,) * 4

    commits = [record(8.0, 2), record(2.0), record(900.0), CommitRecord(1, 0.0, "r", {})]
    found = estimate_run(plan, SPEC, commits, 90.0)
    assert found.images_per_node_s == 4.0  # the median of 4, 2 and 900 a node
    assert found.node_hours == pytest.approx(8 / 4 / 3600)
    assert found.seconds == pytest.approx(1.0)  # two nodes, as the newest commit had
    assert found.cost == pytest.approx(90 * 8 / 4 / 3600)
    assert found.to_rows() == {
        "to compute": "8 images",
        "to read": "710 B",
        "table growth": f"about {found.growth_bytes / 1000:.1f} kB",
        "expected time": "about 0:01 (4.0 images/s per node, 0.00 node-hours)",
        "expected cost": "about 0.05",
    }
