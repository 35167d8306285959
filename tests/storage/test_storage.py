import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.support.s3_server import S3Server
from bottleneck.console.redaction import redact_uri
from bottleneck.errors import SourceError
from bottleneck.storage import object_stores
from bottleneck.storage.fetcher import Fetched, Fetcher, FetchRequest
from bottleneck.storage.files import delete, exists, open_input, read_bytes, stat_uri, write_bytes
from bottleneck.storage.uris import join_uri, local_path, normalize_uri, resolve_uri

ODD_NAMES = ["sp ace.jpg", "h#ash.jpg", "per%cent.jpg", "a%20b.jpg", "pl+us.jpg", "q?m.jpg"]
ODD_NAMES += ["ünï.jpg", "日本.JPG", "amp&'.jpg", "[x]{y}.jpg"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("s3://bucket/prefix/", "s3://bucket/prefix"),
        ("s3://bucket/", "s3://bucket"),
        ("s3a://bucket/a b#c", "s3://bucket/a b#c"),
        ("gcs://bucket/x", "gs://bucket/x"),
        ("memory://x/", "memory://x"),
        ("/a/b/../c/", "/a/c"),
        ("file:///a/b%20c", "/a/b c"),
        ("file://localhost/a", "/a"),
        (Path("/a/b"), "/a/b"),
    ],
)
def test_normalize_uri(given, expected):
    assert normalize_uri(given) == expected


def test_relative_local_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert normalize_uri("images") == str(tmp_path / "images")
    assert normalize_uri((tmp_path / "a b#ü").as_uri()) == str(tmp_path / "a b#ü")


def test_file_uri_with_a_literal_percent_that_exists_is_not_decoded(tmp_path):
    (tmp_path / "a%20b").touch()
    assert local_path(f"file://{tmp_path}/a%20b") == tmp_path / "a%20b"


@pytest.mark.parametrize(
    ("folder", "uri", "expected"),
    [
        ("/lists", "../a.jpg", "/a.jpg"),
        ("s3://b/lists", "../x/a#1.jpg", "s3://b/x/a#1.jpg"),
        ("s3://b", "a.jpg", "s3://b/a.jpg"),
        ("s3://b/lists", "/disk/a.jpg", "/disk/a.jpg"),
        ("/lists", "s3://b/a.jpg", "s3://b/a.jpg"),
    ],
)
def test_resolve_uri(folder, uri, expected):
    assert resolve_uri(folder, uri) == expected


def test_join_uri():
    assert join_uri("s3://b/", "x/", "y.jpg") == "s3://b/x/y.jpg"
    assert join_uri("/", "x") == "/x"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("s3://id:secret@bucket/a", "s3://bucket/a"),
        ("https://token@host/a", "https://host/a"),
        ("https://h/a.jpg?X-Amz-Signature=f00&X-Amz-Credential=k&v=2", "https://h/a.jpg?v=2"),
        ("https://h/a.jpg?sv=1&sig=abc", "https://h/a.jpg?sv=1"),
        ("https://h/a.jpg?access_token=abc", "https://h/a.jpg"),
        (
            "abfss://box@account.dfs.core.windows.net/a",
            "abfss://box@account.dfs.core.windows.net/a",
        ),
        ("http://h:8080/a@2x.jpg", "http://h:8080/a@2x.jpg"),
        ("/plain/pa?th", "/plain/pa?th"),
    ],
)
def test_redact_uri(given, expected):
    assert redact_uri(given) == expected


def test_whole_files_round_trip_everywhere(tmp_path, s3):
    s3.create_bucket("whole")
    for base in (str(tmp_path / "new/folder"), "s3://whole/p", "memory://whole"):
        for name in ODD_NAMES:
            uri = join_uri(base, name)
            assert not exists(uri)
            write_bytes(uri, name.encode())
            assert exists(uri)
            assert read_bytes(uri) == name.encode()
            with open_input(uri) as file:
                assert file.read(2) == name.encode()[:2]
                assert file.seek(0) == 0
            assert stat_uri(uri).size_bytes == len(name.encode())
            delete(uri)
            assert not exists(uri)
            delete(uri)
    assert list((tmp_path / "new/folder").iterdir()) == []


def test_fetch_from_s3_takes_one_request_an_image_and_agrees_with_head(s3):
    s3.create_bucket("fetch", {f"p/{name}": name.encode() for name in ODD_NAMES})
    uris = [f"s3://fetch/p/{name}" for name in ODD_NAMES]
    heads = [stat_uri(uri).fingerprint for uri in uris]
    s3.reset()
    fetched = Fetcher().fetch([FetchRequest(uri) for uri in uris])
    assert [f.data for f in fetched] == [name.encode() for name in ODD_NAMES]
    assert [f.fingerprint for f in fetched] == heads
    assert {f.status for f in fetched} == {None}
    assert len(s3.requests()) == len(uris)
    assert set(s3.counts().values()) == {1}


def test_many_images_take_one_request_each_in_order(s3):
    keys = [f"i/{n:03d}.jpg" for n in range(400)]
    s3.create_bucket("many", {key: key.encode() for key in keys})
    fetched = Fetcher(concurrency=32).fetch([FetchRequest(f"s3://many/{k}") for k in keys])
    assert [f.data for f in fetched] == [key.encode() for key in keys]
    assert len(s3.requests()) == 400


def test_tar_member_is_fetched_by_its_range_with_one_request(s3, tmp_path):
    data = bytes(range(200))
    s3.create_bucket("ranges", {"a.tar": data})
    (tmp_path / "a.tar").write_bytes(data)
    write_bytes("memory://ranges/a.tar", data)
    for archive in ("s3://ranges/a.tar", str(tmp_path / "a.tar"), "memory://ranges/a.tar"):
        whole = stat_uri(archive).fingerprint
        s3.reset()
        good, beyond, cut, empty = Fetcher().fetch(
            [
                FetchRequest(archive, 10, 5),
                FetchRequest(archive, 500, 5),
                FetchRequest(archive, 190, 50),
                FetchRequest(archive, 10, 0),
            ]
        )
        assert good == Fetched(data[10:15], f"{whole}@10+5")
        assert beyond.status == "truncated"
        assert (cut.status, cut.error) == (
            "truncated",
            "the archive ends after 10 of the member's 50 bytes",
        )
        assert empty == Fetched(b"", f"{whole}@10+0")
        if archive.startswith("s3"):
            assert len(s3.requests()) == 4


def test_local_fingerprint_is_size_and_mtime(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"12345")
    os.utime(path, ns=(1, 1_700_000_000_123_456_789))
    (fetched,) = Fetcher().fetch([FetchRequest(str(path))])
    assert fetched == Fetched(b"12345", "size+mtime:5-1700000000123456789")
    assert stat_uri(str(path)).fingerprint == fetched.fingerprint


def test_fingerprint_of_the_list_file_is_kept(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"1")
    (fetched,) = Fetcher().fetch([FetchRequest(str(path), fingerprint="list:v7")])
    assert fetched == Fetched(b"1", "list:v7")


def test_permanent_failures_local(tmp_path):
    (tmp_path / "big.jpg").write_bytes(bytes(101))
    os.mkfifo(tmp_path / "pipe.jpg")
    names = ["none.jpg", "big.jpg", "pipe.jpg", "", "nul\0.jpg", "big.jpg/under.jpg"]
    fetched = Fetcher(max_bytes=100).fetch([FetchRequest(f"{tmp_path}/{n}") for n in names])
    assert [(f.status, f.error) for f in fetched] == [
        ("missing", "No such file"),
        ("too_large", "101 bytes; the limit is 100"),
        ("unreadable", "is not a regular file"),
        ("unreadable", "is not a regular file"),
        ("unreadable", "ValueError: embedded null byte"),
        ("missing", "No such file"),
    ]
    assert fetched[1].fingerprint == f"size+mtime:101-{(tmp_path / 'big.jpg').stat().st_mtime_ns}"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permission_denied_local(tmp_path):
    path = tmp_path / "secret.jpg"
    path.touch(mode=0)
    (fetched,) = Fetcher().fetch([FetchRequest(str(path))])
    assert (fetched.status, fetched.error) == ("unavailable", "Permission denied")


def test_permanent_failures_s3(s3):
    s3.create_bucket("perm", {"big.jpg": bytes(3_000_000), "denied.jpg": b"1", "ok.jpg": b"1"})
    s3.fail(403, match="denied.jpg")
    names = ["none.jpg", "big.jpg", "denied.jpg", "a//b.jpg", "ok.jpg"]
    requests = [FetchRequest(f"s3://perm/{name}") for name in names]
    requests.append(FetchRequest("s3://no-such-bucket/a.jpg"))
    fetched = Fetcher(max_bytes=1_000_000).fetch(requests)
    assert [f.status for f in fetched] == [
        "missing",
        "too_large",
        "unavailable",
        "unreadable",
        None,
        "missing",
    ]
    assert fetched[0].error == "HTTP 404 NoSuchKey"
    assert fetched[1].error == "3000000 bytes; the limit is 1000000"
    assert fetched[1].fingerprint == stat_uri("s3://perm/big.jpg").fingerprint
    assert fetched[2].error == "HTTP 403 AccessDenied"
    assert fetched[5].error == "HTTP 404 NoSuchBucket"


@pytest.mark.parametrize("fault", [500, 503, 429, "reset", "truncate"])
def test_short_trouble_is_retried(s3, fault):
    bucket = f"short-{fault}"
    s3.create_bucket(bucket, {"a.jpg": b"0123456789"})
    s3.fail(fault, n_requests=2)
    (fetched,) = Fetcher().fetch([FetchRequest(f"s3://{bucket}/a.jpg")])
    assert (fetched.data, fetched.status) == (b"0123456789", None)
    assert s3.counts() == {f"GET /{bucket}/a.jpg": 3}


def test_one_image_that_stays_unavailable_does_not_touch_the_others(s3):
    s3.create_bucket("some", {f"{n}.jpg": b"1" for n in range(20)})
    s3.fail(503, match="/some/7.jpg")
    fetched = Fetcher(retry_s=0.5).fetch([FetchRequest(f"s3://some/{n}.jpg") for n in range(20)])
    assert [n for n, f in enumerate(fetched) if f.status] == [7]
    assert fetched[7].status == "unavailable"
    assert fetched[7].error.startswith("HTTP 503 SlowDown after ")
    assert fetched[7].fingerprint is None


@pytest.mark.parametrize(("status", "code"), [(400, "ExpiredToken"), (403, "InvalidAccessKeyId")])
def test_refused_credentials_are_no_property_of_the_image(s3, status, code):
    s3.create_bucket(f"cred{status}", {"a.jpg": b"1"})
    s3.fail(status, code=code)
    (fetched,) = Fetcher().fetch([FetchRequest(f"s3://cred{status}/a.jpg")])
    assert (fetched.status, fetched.error) == ("unavailable", f"HTTP {status} {code}")


def test_a_folder_that_may_not_be_read_does_not_touch_the_others(s3):
    names = [f"private/{n}.jpg" for n in range(8)] + ["public/a.jpg"]
    s3.create_bucket("mixed", dict.fromkeys(names, b"1"))
    s3.fail(403, match="/mixed/private/")
    fetched = Fetcher(concurrency=2).fetch([FetchRequest(f"s3://mixed/{n}") for n in names])
    assert [f.status for f in fetched] == ["unavailable"] * 8 + [None]
    assert {f.error for f in fetched} == {"HTTP 403 AccessDenied", None}


def test_outage_costs_one_retry_budget_a_call(s3):
    s3.create_bucket("outage")
    s3.fail(500)
    requests = [FetchRequest(f"s3://outage/{n}.jpg") for n in range(100)]
    start = time.monotonic()
    fetched = Fetcher(concurrency=4, retry_s=1).fetch(requests)
    # How many were tried, below, is exact; this is for a budget that never ends.
    assert time.monotonic() - start < 60
    assert {f.status for f in fetched} == {"unavailable"}
    not_tried = "not tried: s3://outage did not answer the requests before"
    assert 90 <= sum(f.error == not_tried for f in fetched) <= 96


def test_slow_storage_times_out_as_unavailable(s3):
    s3.create_bucket("slow", {"a.jpg": b"1"})
    s3.delay_s = 1.5
    (fetched,) = Fetcher(timeout_s=0.3, retry_s=0.5).fetch([FetchRequest("s3://slow/a.jpg")])
    assert fetched.status == "unavailable"
    assert fetched.error.startswith("timed out after ")


def test_refused_connection_is_unavailable(monkeypatch, s3):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    (fetched,) = Fetcher(retry_s=0.3).fetch([FetchRequest("s3://gone/a.jpg")])
    assert fetched.status == "unavailable"
    assert fetched.error.startswith("connection failed after ")


def test_http_through_fsspec(s3):
    s3.create_bucket("web", {"a.jpg": b"12345"})
    s3.client().put_bucket_acl(Bucket="web", ACL="public-read")
    s3.client().put_object_acl(Bucket="web", Key="a.jpg", ACL="public-read")
    s3.fail(404, match="b.jpg")
    s3.fail(503, match="c.jpg")
    fetched = Fetcher().fetch([FetchRequest(f"{s3.endpoint}/web/{n}.jpg") for n in "abc"])
    assert fetched[0].data == b"12345"
    assert fetched[0].fingerprint == stat_uri("s3://web/a.jpg").fingerprint
    assert fetched[1].status == "missing"
    assert (fetched[2].status, fetched[2].error) == ("unavailable", "HTTP 503")
    with pytest.raises(SourceError, match=r"/web/c.jpg cannot be used \(.*503.*\)"):
        stat_uri(f"{s3.endpoint}/web/c.jpg")


def test_unknown_scheme_is_unreadable():
    (fetched,) = Fetcher().fetch([FetchRequest("nosuch://x/a.jpg")])
    assert (fetched.status, fetched.error) == (
        "unreadable",
        "ValueError: Protocol not known: nosuch",
    )


def test_fetcher_survives_pickling_and_closing(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"1")
    fetcher = Fetcher(concurrency=3)
    request = [FetchRequest(str(tmp_path / "a.jpg"))]
    assert fetcher.fetch(request)[0].data == b"1"
    copy = pickle.loads(pickle.dumps(fetcher))
    assert copy == fetcher
    assert copy.fetch(request)[0].data == b"1"
    fetcher.close()
    assert fetcher.fetch(request)[0].data == b"1"
    assert fetcher.fetch([]) == []


def test_errors_of_whole_files_are_one_clear_line(tmp_path, s3, monkeypatch):
    s3.create_bucket("errors", {"a.csv": b"uri"})

    def message(uri):
        with pytest.raises(SourceError) as caught:
            read_bytes(uri)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert message(str(tmp_path / "x")) == f"{tmp_path}/x does not exist; check the path"
    assert message(str(tmp_path)) == f"{tmp_path} is a folder where a file is expected"
    assert message("s3://errors/x") == (
        "s3://errors/x does not exist (HTTP 404 NoSuchKey); check the path"
    )
    assert message("s3://no-bucket/x") == (
        "s3://no-bucket/x is in a bucket that does not exist (HTTP 404 NoSuchBucket); check the "
        "bucket's name and AWS_ENDPOINT_URL"
    )
    s3.fail(403, n_requests=1)
    assert message("s3://errors/a.csv") == (
        "s3://errors/a.csv may not be accessed with these credentials (HTTP 403 AccessDenied); "
        "they need permission to list the bucket and get its objects"
    )
    s3.fail(403, n_requests=1, code="SignatureDoesNotMatch")
    assert message("s3://errors/a.csv") == (
        "s3://errors/a.csv refused the credentials (HTTP 403 SignatureDoesNotMatch); check "
        "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN or AWS_PROFILE"
    )
    s3.fail(301, n_requests=1, code="PermanentRedirect")
    assert message("s3://errors/a.csv") == (
        "s3://errors/a.csv is in a bucket of another region (the bucket is in another region); "
        "set AWS_REGION to the bucket's region"
    )
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    assert message("s3://errors/a.csv") == (
        "s3://errors is behind an endpoint without TLS; set AWS_ALLOW_HTTP=true if that is meant, "
        "or use https in AWS_ENDPOINT_URL"
    )


def test_credentials_come_from_a_profile_without_environment_keys(s3, tmp_path, monkeypatch):
    s3.create_bucket("profile", {"a.jpg": b"1"})
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    with pytest.raises(SourceError, match="no AWS credentials for s3://profile: "):
        read_bytes("s3://profile/a.jpg")
    (fetched,) = Fetcher().fetch([FetchRequest("s3://profile/a.jpg")])
    assert fetched.status == "unavailable"
    assert fetched.error.startswith("no AWS credentials for s3://profile: ")
    (tmp_path / "config").write_text("[profile night]\nregion = eu-west-1\n")
    (tmp_path / "credentials").write_text(
        "[night]\naws_access_key_id = one\naws_secret_access_key = two\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "night")
    assert read_bytes("s3://profile/a.jpg") == b"1"
    store = object_stores.open_store("s3://profile")
    assert store.config["region"] == "eu-west-1"
    assert store.credential_provider()["access_key_id"] == "one"


def test_one_client_a_bucket_and_process(s3):
    s3.create_bucket("cached")
    assert object_stores.open_store("s3://cached") is object_stores.open_store("s3://cached")


def test_faults_of_the_test_server_end_after_their_seconds():
    with S3Server() as s3, s3.environ():
        s3.create_bucket("own", {"a": b"1"})
        # Long enough that a machine that stands still for a while asks before they end.
        s3.fail(503, seconds=3)
        assert read_bytes("s3://own/a") == b"1"
        assert {request.status for request in s3.requests()} == {503, 200}


def test_storage_imports_neither_ray_nor_keras():
    code = (
        "import sys, bottleneck.storage.fetcher, bottleneck.sources.listing;"
        "print([m for m in ('ray', 'keras', 'tensorflow', 's3fs', 'boto3') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"
