import io
import json
import os
import tarfile

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bottleneck.errors import SourceError
from bottleneck.sources import archives
from bottleneck.sources.listing import list_images
from bottleneck.sources.rows import LISTING_SCHEMA
from bottleneck.sources.rules import Rules, with_layout
from bottleneck.storage.fetcher import Fetcher, FetchRequest
from bottleneck.storage.files import write_bytes

ODD_NAMES = ["sp ace.jpg", "h#ash.jpg", "per%cent.jpg", "a%20b.jpg", "pl+us.jpg", "q?m.jpg"]
ODD_NAMES += ["ünï.JPG", "日本.png", "amp&'.jpg", "[x]{y}.jpg"]


def rows(listing, *columns):
    """The listing's rows as tuples of the columns."""
    return list(zip(*(listing.images.column(name).to_pylist() for name in columns), strict=True))


def message(uri, **options):
    with pytest.raises(SourceError) as caught:
        list_images(str(uri), **options)
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.exit_code == 2
    return text


def fill(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def tar_of(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def fetch_all(listing):
    """Every image's bytes by identity, after checking that the fingerprints agree."""
    columns = ("image", "uri", "offset", "bytes", "fingerprint")
    found = rows(listing, *columns)
    requests = [
        FetchRequest(uri, offset, size if offset is not None else None, fingerprint)
        for _, uri, offset, size, fingerprint in found
    ]
    fetched = Fetcher().fetch(requests)
    assert [f.fingerprint for f in fetched] == [fingerprint for *_, fingerprint in found]
    assert [f.status for f in fetched] == [None] * len(found)
    return {image: f.data for (image, *_), f in zip(found, fetched, strict=True)}


# -- layouts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "path", "split", "label"),
    [
        ("auto", "a.jpg", None, None),
        ("auto", "cat/a.jpg", None, "cat"),
        ("auto", "cat/deep/er/a.jpg", None, "cat"),
        ("auto", "train/cat/a.jpg", "train", "cat"),
        ("auto", "TEST/cat/x/a.jpg", "test", "cat"),
        ("auto", "Val/cat/a.jpg", "validation", "cat"),
        ("auto", "valid/a.jpg", "validation", None),
        ("auto", "trains/a.jpg", None, "trains"),
        ("flat", "train/cat/a.jpg", None, None),
        ("label", "train/cat/a.jpg", None, "train"),
        ("label", "a.jpg", None, None),
        ("split-label", "fold1/cat/a.jpg", "fold1", "cat"),
        ("split-label", "val/a.jpg", "validation", None),
        ("split-label", "a.jpg", None, None),
    ],
)
def test_layout(layout, path, split, label):
    (row,) = with_layout(pl.DataFrame({"path": [path]}), layout).rows(named=True)
    assert (row["split"], row["label"]) == (split, label)


def test_layout_that_is_not_allowed(tmp_path):
    assert message(tmp_path, layout="labels") == (
        "layout 'labels' is not allowed; choose one of auto, flat, label, split-label"
    )


def test_extensions_are_normalised():
    assert Rules(extensions=("JPG", ".Png", "jpg")).extensions == ("jpg", "png")
    with pytest.raises(SourceError, match=r"extensions \[\] are not allowed"):
        Rules(extensions=())


# -- folders ------------------------------------------------------------------------------------


def test_local_folder(tmp_path):
    fill(
        tmp_path,
        {
            "train/cat/b.JPEG": b"12",
            "train/cat/a.jpg": b"1",
            "test/dog/c.png": b"",
            "d.gif": b"1",
            ".hidden.jpg": b"1",
            ".git/x.jpg": b"1",
            ".git/y.jpg": b"1",
            "readme.txt": b"1",
            "noextension": b"1",
        },
    )
    listing = list_images(str(tmp_path))
    assert listing.images.schema == LISTING_SCHEMA
    assert rows(listing, "image", "uri", "label", "split", "bytes", "offset") == [
        ("d.gif", f"{tmp_path}/d.gif", None, None, 1, None),
        ("test/dog/c.png", f"{tmp_path}/test/dog/c.png", "dog", "test", 0, None),
        ("train/cat/a.jpg", f"{tmp_path}/train/cat/a.jpg", "cat", "train", 1, None),
        ("train/cat/b.JPEG", f"{tmp_path}/train/cat/b.JPEG", "cat", "train", 2, None),
    ]
    assert listing.skipped == {"hidden": 2, "not_an_image_extension": 2}
    assert listing.requests == 0
    assert fetch_all(listing)["train/cat/b.JPEG"] == b"12"
    assert list_images(tmp_path.as_uri()).images == listing.images


def test_local_folder_with_links(tmp_path):
    fill(tmp_path, {"real/a.jpg": b"1", "root/b.jpg": b"2"})
    root = tmp_path / "root"
    (root / "file.jpg").symlink_to(tmp_path / "real/a.jpg")
    (root / "linked").symlink_to(tmp_path / "real")
    (root / "loop").symlink_to(root)
    (root / "self.jpg").symlink_to(root / "self.jpg")
    (root / "broken.jpg").symlink_to(tmp_path / "nothing")
    os.mkfifo(root / "pipe.jpg")
    (root / os.fsdecode(b"\xff.jpg")).touch()
    listing = list_images(str(root))
    assert rows(listing, "image") == [("b.jpg",), ("file.jpg",), ("linked/a.jpg",)]
    assert listing.skipped == {
        "broken_link": 2,
        "link_loop": 1,
        "name_not_utf8": 1,
        "not_a_file": 1,
    }


def test_odd_names_local_s3_and_memory(tmp_path, s3):
    files = {f"läbel #1/{name}": name.encode() for name in ODD_NAMES}
    fill(tmp_path, files)
    s3.create_bucket("odd", {f"in put%/{name}": data for name, data in files.items()})
    for name, data in files.items():
        write_bytes(f"memory://odd/{name}", data)
    for uri in (str(tmp_path), "s3://odd/in put%", "s3://odd/in put%/", "memory://odd"):
        listing = list_images(uri)
        assert [image for (image,) in rows(listing, "image")] == sorted(files)
        assert set(rows(listing, "label")) == {("läbel #1",)}
        assert fetch_all(listing) == files


def test_a_changed_local_file_changes_its_fingerprint_only(tmp_path):
    fill(tmp_path, {"a.jpg": b"1", "b.jpg": b"1"})
    before = dict(rows(list_images(str(tmp_path)), "image", "fingerprint"))
    os.utime(tmp_path / "a.jpg", ns=(5, 5))
    after = dict(rows(list_images(str(tmp_path)), "image", "fingerprint"))
    assert after == {"a.jpg": "size+mtime:1-5", "b.jpg": before["b.jpg"]}


def test_missing_empty_and_single_file(tmp_path):
    assert message(tmp_path / "no") == f"{tmp_path}/no does not exist; check the path"
    fill(tmp_path, {"x/a.txt": b"1", "x/.b.jpg": b"1"})
    assert message(tmp_path / "x") == (
        f"{tmp_path}/x holds no image: 2 files skipped (1 hidden, 1 not_an_image_extension); "
        "accepted extensions: .jpg, .jpeg, .jpe, .jfif, .png, .webp, .gif, .bmp, .dib, .tif, "
        ".tiff, .ppm, .pgm, .ico"
    )
    assert message(tmp_path / "x/a.txt") == (
        f"{tmp_path}/x/a.txt is a single file; give a folder or prefix, a list file (.csv, .jsonl, "
        ".ndjson, .json, .parquet) or a .tar file"
    )
    assert message("memory://nowhere") == "memory://nowhere does not exist; check the path"
    assert message("nosuch://x") == (
        "nosuch://x cannot be used (ValueError: Protocol not known: nosuch)"
    )


# -- object stores ------------------------------------------------------------------------------


def test_s3_prefix_skips_and_counts(s3):
    objects = {
        "p/": b"",
        "p/train/": b"",
        "p/train/cat/a.jpg": b"1",
        "p/train/cat/.b.jpg": b"1",
        "p/.cache/c.jpg": b"1",
        "p/notes.txt": b"1",
        "pq/other.jpg": b"1",
    }
    s3.create_bucket("skips", objects)
    listing = list_images("s3://skips/p")
    assert rows(listing, "image", "uri", "label", "split", "bytes") == [
        ("train/cat/a.jpg", "s3://skips/p/train/cat/a.jpg", "cat", "train", 1)
    ]
    assert listing.skipped == {
        "empty_directory_marker": 2,
        "hidden": 2,
        "not_an_image_extension": 1,
    }
    assert s3.counts() == {"GET /skips": 1}
    assert listing.requests == 1


def test_s3_flat_prefix_takes_one_request_a_thousand_keys(s3):
    keys = [f"p/{n:05d}.jpg" for n in range(2500)]
    s3.create_bucket("flat", dict.fromkeys(keys, b""))
    listing = list_images("s3://flat/p")
    assert rows(listing, "uri") == [(f"s3://flat/{key}",) for key in keys]
    assert s3.counts() == {"GET /flat": 3}
    assert listing.requests == 3
    # The whole bucket: page, folders, then the one folder's three pages.
    s3.reset()
    listing = list_images("s3://flat", layout="flat")
    assert listing.images.num_rows == 2500
    assert s3.counts() == {"GET /flat": 5}
    assert listing.requests == 5


def test_s3_folders_are_listed_side_by_side(s3):
    keys = [f"{label}/{n:04d}.jpg" for label in "abcd" for n in range(500)]
    keys += [f"top{n}.jpg" for n in range(3)]
    s3.create_bucket("side", dict.fromkeys(keys, b""))
    listing = list_images("s3://side")
    assert [image for (image,) in rows(listing, "image")] == sorted(keys)
    # One page, the folders, and one page for each of the four folders.
    assert s3.counts() == {"GET /side": 6}
    assert listing.requests == 6
    prefixes = [r.query for r in s3.requests()]
    assert sorted(q.split("prefix=")[1] for q in prefixes if "prefix=" in q and "%2F" in q) == [
        "a%2F",
        "b%2F",
        "c%2F",
        "d%2F",
    ]


def test_s3_many_small_folders_are_listed_in_sequence(s3):
    keys = [f"{n // 10:04d}/{n % 10}.jpg" for n in range(1200)]
    s3.create_bucket("small", dict.fromkeys(keys, b""))
    listing = list_images("s3://small")
    assert listing.images.num_rows == 1200
    assert s3.counts() == {"GET /small": 2}


def test_s3_errors(s3, monkeypatch):
    s3.create_bucket("bad", {"x/a.jpg": b"1", "y/b//c.jpg": b"1", "z/a.txt": b"1"})
    assert message("s3://bad/nothing") == (
        "s3://bad/nothing/ does not exist or is empty: there is no object under it; check the path"
    )
    assert message("s3://bad/x/a.jpg").startswith("s3://bad/x/a.jpg is a single file; give a ")
    assert message("s3://bad/z").startswith(
        "s3://bad/z holds no image: 1 files skipped (1 not_an_image_extension); accepted"
    )
    assert message("s3://no-such-bucket/p") == (
        "s3://no-such-bucket/p is in a bucket that does not exist (HTTP 404 NoSuchBucket); check "
        "the bucket's name and AWS_ENDPOINT_URL"
    )
    assert message("s3://bad/y") == (
        "s3://bad/y holds a key that cannot be addressed (Encountered object with invalid path: "
        'Path "y/b//c.jpg" contained empty path segment); keys with an empty part (//), with . or '
        ".. as a part or with control characters must be renamed"
    )
    s3.fail(403, n_requests=1)
    assert message("s3://bad/x") == (
        "s3://bad/x may not be accessed with these credentials (HTTP 403 AccessDenied); they need "
        "permission to list the bucket and get its objects"
    )
    s3.fail(403, n_requests=1, code="InvalidAccessKeyId")
    assert message("s3://id:secret@bad/x".replace("id:secret@", "")) == (
        "s3://bad/x refused the credentials (HTTP 403 InvalidAccessKeyId); check "
        "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN or AWS_PROFILE"
    )


def test_s3_listing_survives_short_trouble_and_never_is_partial(s3):
    s3.create_bucket("trouble", dict.fromkeys([f"p/{n:04d}.jpg" for n in range(1001)], b""))
    s3.fail(503, n_requests=2, match="continuation-token")
    assert list_images("s3://trouble/p").images.num_rows == 1001
    s3.fail(403, n_requests=1, match="continuation-token")
    assert "HTTP 403 AccessDenied" in message("s3://trouble/p")


# -- list files ---------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    fill(tmp_path, {"images/a.jpg": b"1", "images/b#ü.png": b"22", "lists/none": b""})
    return tmp_path


def test_csv_list(pictures):
    path = pictures / "lists/a.csv"
    path.write_text(
        "\ufeffextra,uri,label,split\n"
        f"1,../images/a.jpg,007,VAL\n2,{pictures}/images/b#ü.png,NA,\n3,gone.jpg,,fold1\n"
    )
    listing = list_images(str(path))
    a, b = (pictures / "images/a.jpg").stat(), (pictures / "images/b#ü.png").stat()
    assert rows(listing, "image", "uri", "label", "split", "fingerprint", "bytes") == sorted(
        [
            (
                "../images/a.jpg",
                f"{pictures}/images/a.jpg",
                "007",
                "validation",
                f"size+mtime:1-{a.st_mtime_ns}",
                1,
            ),
            (
                f"{pictures}/images/b#ü.png",
                f"{pictures}/images/b#ü.png",
                "NA",
                None,
                f"size+mtime:2-{b.st_mtime_ns}",
                2,
            ),
            ("gone.jpg", f"{pictures}/lists/gone.jpg", None, "fold1", "missing", None),
        ]
    )
    assert Fetcher().fetch([FetchRequest(f"{pictures}/lists/gone.jpg")])[0].status == "missing"


@pytest.mark.parametrize("form", ["jsonl", "ndjson", "json", "array.json", "parquet"])
def test_other_lists(pictures, form):
    items = [
        {"uri": "../images/a.jpg", "image": "one", "label": 3, "fingerprint": "v1", "x": [1]},
        {"uri": "../images/b#ü.png", "image": "two", "label": 4, "fingerprint": "v2", "x": [2]},
    ]
    path = pictures / f"lists/all.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(items), path)
    elif form == "array.json":
        path.write_text(json.dumps(items))
    else:
        path.write_text("\n".join(map(json.dumps, items)) + "\n\n")
    listing = list_images(str(path))
    assert rows(listing, "image", "label", "split", "fingerprint", "bytes") == [
        ("one", "3", None, "list:v1", None),
        ("two", "4", None, "list:v2", None),
    ]
    assert fetch_all(listing) == {"one": b"1", "two": b"22"}


def test_list_in_s3_asks_once_an_image(s3):
    s3.create_bucket("lists", {f"i/{n}.jpg": b"1" for n in range(5)})
    text = "uri\n" + "".join(f"../i/{n}.jpg\n" for n in range(6))
    s3.put_objects("lists", {"l/list.csv": text.encode()})
    listing = list_images("s3://lists/l/list.csv")
    assert rows(listing, "uri") == [(f"s3://lists/i/{n}.jpg",) for n in range(6)]
    assert [f == "missing" for (f,) in rows(listing, "fingerprint")] == [False] * 5 + [True]
    heads = {f"HEAD /lists/i/{n}.jpg": 1 for n in range(6)}
    assert s3.counts() == {"HEAD /lists/l/list.csv": 1, "GET /lists/l/list.csv": 1, **heads}
    assert listing.requests == 8
    good = pa.table(listing.images).slice(0, 5)
    assert fetch_all(type(listing)(good)) == {f"../i/{n}.jpg": b"1" for n in range(5)}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", "path,label\nx,y\n", "has no column 'uri'; it has path, label; name the images"),
        ("a.jsonl", '{"path": 1}\n', "has no column 'uri'; it has path; name the images"),
        ("a.csv", "uri,label\nx,y\nz\n", "is not well-formed CSV: CSV parse error: Expected 2"),
        ("a.csv", "", "is not well-formed CSV: Empty CSV file"),
        ("a.csv", "uri\n", "lists no image; it must have one row per image"),
        ("a.jsonl", '{"uri": "x"}\n{"uri"\n', "is not well-formed JSON Lines: line 2: "),
        ("a.jsonl", "3\n", "is not well-formed JSON Lines: line 1 is not an object; write one "),
        ("a.json", "[3", "is not well-formed JSON Lines: "),
        ("a.parquet", "PAR1", "is not well-formed Parquet: "),
        ("a.csv", 'uri,label\nx,y\n"",y\n', "row 2 has an empty uri; every row must name an image"),
        ("a.csv", "uri\nx\nx\n", "lists image 'x' more than once (1 such rows); each image must"),
    ],
)
def test_malformed_lists(tmp_path, name, text, expected):
    path = tmp_path / name
    path.write_text(text)
    assert expected in message(path)
    assert message(path).startswith(str(path))


def test_layout_does_not_go_with_a_list(pictures):
    (pictures / "a.csv").write_text("uri\nimages/a.jpg\n")
    assert message(pictures / "a.csv", layout="label") == (
        f"layout 'label' is not allowed for the list file {pictures}/a.csv: it holds label and "
        "split in columns; leave the layout at auto"
    )


# -- archives -----------------------------------------------------------------------------------

MEMBERS = {
    "000.jpg": b"A" * 700,
    "000.cls": b"cat\n",
    "001.JPG": b"B",
    "001.json": b'{"label": 7, "x": 1}',
    "deep/002.seg.png": b"",
    "deep/002.txt": "ü dog".encode(),
    "003.jpg": b"C" * 513,
    "004.json": b'{"cls": "late"}',
    "004.jpg": b"D",
    "._003.jpg": b"x",
    "notes.md": b"x",
}
EXPECTED = [
    ("000.jpg", "cat", 700),
    ("001.JPG", "7", 1),
    ("003.jpg", None, 513),
    ("004.jpg", "late", 1),
    ("deep/002.seg.png", "ü dog", 0),
]


@pytest.mark.parametrize("read_ahead", [512, 4 * 1024 * 1024])
def test_tar_shards_local_s3_and_memory(tmp_path, s3, monkeypatch, read_ahead):
    monkeypatch.setattr(archives, "READ_AHEAD_BYTES", read_ahead)
    data = tar_of(MEMBERS)
    bucket = f"tars{read_ahead}"
    fill(tmp_path, {"s/0.tar": data})
    s3.create_bucket(bucket, {"s/0.tar": data})
    write_bytes(f"memory://{bucket}/s/0.tar", data)
    for base in (str(tmp_path), f"s3://{bucket}", f"memory://{bucket}"):
        single, folder, above = (list_images(f"{base}{u}") for u in ("/s/0.tar", "/s", ""))
        assert rows(single, "image", "label", "bytes") == [
            (f"0.tar/{name}", label, size)
            for name, label, size in [
                (n, label if label else "deep" if "/" in n else None, s) for n, label, s in EXPECTED
            ]
        ]
        assert single.images == folder.images
        assert set(rows(folder, "uri")) == {(f"{base}/s/0.tar",)}
        assert rows(above, "image", "label")[2] == ("s/0.tar/003.jpg", "s")
        assert folder.skipped == {"hidden": 1, "not_an_image_extension": 1, "sidecar": 4}
        assert folder.archives["0.tar"][1] == 5
        assert above.archives == {"s/0.tar": folder.archives["0.tar"]}
        assert fetch_all(folder) == {f"0.tar/{name}": MEMBERS[name] for name, *_ in EXPECTED}


def test_headers_of_small_members_do_not_cost_a_request_each(s3):
    s3.create_bucket("ahead", {"a.tar": tar_of({f"{n:04d}.jpg": b"1" for n in range(1000)})})
    listing = list_images("s3://ahead/a.tar")
    assert listing.images.num_rows == 1000
    assert s3.counts() == {"HEAD /ahead/a.tar": 1, "GET /ahead/a.tar": 1}
    assert listing.requests == 2


def test_large_members_are_not_read(s3, monkeypatch):
    monkeypatch.setattr(archives, "READ_AHEAD_BYTES", 1024)
    s3.create_bucket("large", {"a.tar": tar_of({f"{n}.jpg": bytes(100_000) for n in range(5)})})
    assert list_images("s3://large/a.tar").images.num_rows == 5
    assert s3.counts()["GET /large/a.tar"] <= 7


def test_known_archives_are_not_read_again(s3):
    first, second = tar_of(MEMBERS), tar_of({"a.jpg": b"1"})
    s3.create_bucket("known", {"t/0.tar": first, "t/1.tar": second, "t/x.jpg": b"1"})
    before = list_images("s3://known")
    images = pl.DataFrame(before.images)
    known = {
        prefix: (
            fingerprint,
            images.filter(pl.col("image").str.starts_with(prefix + "/")).select(
                "image", "label", "split", "fingerprint"
            ),
        )
        for prefix, (fingerprint, _) in before.archives.items()
    }
    s3.put_objects("known", {"t/1.tar": tar_of({"a.jpg": b"1", "b.jpg": b"2"})})
    s3.reset()
    after = list_images("s3://known", known_archives=known)
    assert s3.counts() == {"GET /known": 1, "GET /known/t/1.tar": 1}
    old = {row[0]: row for row in rows(before, *LISTING_SCHEMA.names)}
    new = {row[0]: row for row in rows(after, *LISTING_SCHEMA.names)}
    assert set(new) - set(old) == {"t/1.tar/b.jpg"}
    changed = {image for image in old if old[image] != new[image]}
    assert changed == {"t/1.tar/a.jpg"}
    assert after.archives["t/0.tar"] == before.archives["t/0.tar"]
    assert len(fetch_all(after)) == 8


def test_folders_inside_and_around_archives(tmp_path):
    inner = tar_of({"train/cat/a.jpg": b"1", "./dog/b.jpg": b"1", "c.jpg": b"1", "c.txt": b"x"})
    fill(tmp_path, {"in.tar": inner, "test/out.tar": tar_of({"d.jpg": b"1", "e/f.jpg": b"1"})})
    assert rows(list_images(str(tmp_path)), "image", "split", "label") == [
        ("in.tar/c.jpg", None, "x"),
        ("in.tar/dog/b.jpg", None, "dog"),
        ("in.tar/train/cat/a.jpg", "train", "cat"),
        ("test/out.tar/d.jpg", "test", None),
        ("test/out.tar/e/f.jpg", "test", "e"),
    ]


def test_long_names_and_pax_headers(tmp_path):
    name = "ü" * 80 + "/" + "n" * 150 + ".jpg"
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / f"{form}.tar", "w", format=form) as tar:
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
    listing = list_images(str(tmp_path))
    assert set(fetch_all(listing).values()) == {b"abc"}
    assert rows(listing, "image")[0][0].endswith(".tar/" + name)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda d: d[:-9000], "is not a whole tar archive ("),
        (lambda d: d[:2000], "is not a whole tar archive ("),
        (lambda d: d[: 512 + 1024 + 512 + 512], "it ends at byte 2560 without the end-of-archive"),
        (lambda d: d[:1536] + b"x" * 512 + d[2048:], "no member header at byte 1536"),
        (lambda d: b"x" * len(d), "is not a whole tar archive ("),
        (lambda d: b"", "is not a whole tar archive (empty file)"),
        (lambda d: b"\x1f\x8b" + d, "is compressed (gzip): members of a compressed archive"),
    ],
)
def test_damaged_archives_name_the_archive(tmp_path, s3, damage, expected):
    data = tar_of({"0.jpg": bytes(1000), "0.cls": b"c", "1.jpg": b"1" * 20_000})
    (tmp_path / "a.tar").write_bytes(damage(data))
    assert expected in message(tmp_path)
    assert message(tmp_path).startswith(f"{tmp_path}/a.tar ")


def test_malformed_label_in_an_archive(tmp_path):
    fill(tmp_path, {"a.tar": tar_of({"0.jpg": b"1", "0.json": b"{"})})
    assert message(tmp_path).startswith(f"{tmp_path}/a.tar: label file '0.json' cannot be read (")


def test_archive_replaced_while_it_is_listed(s3, monkeypatch):
    monkeypatch.setattr(archives, "READ_AHEAD_BYTES", 512)
    s3.create_bucket("swap", {"a.tar": tar_of(MEMBERS)})
    stat = archives._read_range

    def swapping(archive, start, end):
        if start >= 1024:
            s3.put_objects("swap", {"a.tar": tar_of({"x.jpg": bytes(9000)})})
        return stat(archive, start, end)

    monkeypatch.setattr(archives, "_read_range", swapping)
    assert message("s3://swap") == (
        "s3://swap/a.tar was replaced while it was being listed; run again"
    )


# -- size ---------------------------------------------------------------------------------------


def test_arrow_chunks_stay_bounded(monkeypatch, tmp_path):
    monkeypatch.setattr("bottleneck.sources.rows._CHUNK_ROWS", 2)
    fill(tmp_path, {f"{n}.jpg": b"" for n in range(5)})
    images = list_images(str(tmp_path)).images
    assert [chunk.num_rows for chunk in images.to_batches()] == [2, 2, 1]
    assert images.column("image").to_pylist() == [f"{n}.jpg" for n in range(5)]
