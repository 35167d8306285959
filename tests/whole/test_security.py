"""Secrets leave no trace, TLS is the default, and nothing from storage runs or escapes.

Other files test: what `redact_uri` takes out (storage/test_storage), that credentials are not
handed to Ray (cluster/test_connection), Lambda layers and damaged `.keras` files
(models/test_files), object arrays in weights (backbones/test_weights), the digest of a model's
files (models/test_files), damaged and compressed archives (sources/test_listing), `max_pixels`
(images/test_decoding), escaping in the reports and the status page (evaluation/test_pages,
status/test_history).
"""

from __future__ import annotations

import contextlib
import hashlib
import html.parser
import io
import json
import logging
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import obstore
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from support.images import color, png, read_snapshot

from benchmarks.support.s3_server import S3Server
from bottleneck.backbones.config import BackboneConfig
from bottleneck.backbones.keras_models import build_model
from bottleneck.backbones.weight_loading import load_weights
from bottleneck.backbones.weights import resolve_weights
from bottleneck.config import parsing
from bottleneck.console import logs
from bottleneck.console.redaction import redact_text
from bottleneck.errors import (
    BackboneError,
    BottleneckError,
    ConfigError,
    ModelError,
    SourceError,
    TableError,
)
from bottleneck.extraction.config import ExtractConfig
from bottleneck.models.files import keras_bytes, load_keras, read_manifest
from bottleneck.sources.listing import list_images
from bottleneck.status.charts import page as status_page
from bottleneck.status.history import Run, Size, Status
from bottleneck.storage.fetcher import Fetcher, FetchRequest
from bottleneck.storage.files import read_bytes
from bottleneck.storage.object_stores import StoreOptions, open_store
from bottleneck.table.location import arrow_filesystem
from bottleneck.table.table import FeaturesTable
from bottleneck.training.checkpoint import Checkpoint
from bottleneck.training.config import TrainConfig, as_flags
from bottleneck.training.job import train

PRESIGNED = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDs3cret&X-Amz-Signature=s3cret"
SAS = "sv=2024-08-04&se=2030-01-01&sig=s3cret%2Bx%3D"

# -- what may be printed ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "404, message='Not Found', url=URL('http://me:s3cret@h:80/x?sig=s3cret&v=1')",
            "404, message='Not Found', url=URL('http://h:80/x?v=1')",
        ),
        (f"cannot get <https://h/a.jpg?{PRESIGNED}>, why", "cannot get <https://h/a.jpg>, why"),
        (f"cannot get https://h/a.jpg?{SAS}", "cannot get https://h/a.jpg?sv=2024-08-04&se=2030-01-01"),
        ("GET /b/k?v=1&X-Amz-Signature=s3cret HTTP/1.1", "GET /b/k?v=1 HTTP/1.1"),
        ("simplecache::https://me:s3cret@h/a failed", "simplecache::https://h/a failed"),
        ("https://me:s3@cret@h/a", "https://h/a"),
        ("https://me:s3/cret#?@h/a", "https://h/a"),
        ("https://h/a?%58-Amz-Signature=s3cret&b=1", "https://h/a?b=1"),
        ("https://h/a#access_token=s3cret", "https://h/a"),
        ("https://h/a?b=1#c", "https://h/a?b=1#c"),
        ("http://[::1]:80/a@b and http://h:80?x=a@b", "http://[::1]:80/a@b and http://h:80?x=a@b"),
        ("at 12:30, http://h:80, c@d; no secret", "at 12:30, http://h:80, c@d; no secret"),
    ],
)  # fmt: skip
def test_messages_of_libraries_lose_their_secrets(said: str, shown: str) -> None:
    assert redact_text(said) == shown


@pytest.mark.parametrize("formatter", [logs.PlainFormatter(), logs.JsonFormatter()])
def test_log_lines_lose_their_secrets(formatter: logging.Formatter) -> None:
    try:
        raise OSError(f"no answer from http://h/?{SAS}")
    except OSError:
        trace = sys.exc_info()
    record = logging.makeLogRecord(
        {"name": "aiohttp", "levelname": "WARNING", "msg": "at %s", "args": (f"http://h/?{SAS}",),
         "exc_info": trace}
    )  # fmt: skip
    line = formatter.format(record)
    assert line.count("http://h/?sv=2024-08-04&se=2030-01-01") == 2
    assert "s3cret" not in line


@pytest.mark.parametrize("as_json", [False, True])
def test_what_a_job_says_loses_its_secrets(
    capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    with logs.Console(as_json=as_json):
        logs.say(f"reading http://h/?{SAS}", event="notice")
        logs.fail(f"cannot read http://h/?{SAS}", exit_code=2)
    printed = capsys.readouterr().err
    assert printed.count("http://h/?sv=2024-08-04&se=2030-01-01") == 2
    assert "s3cret" not in printed


@pytest.mark.parametrize("scheme", ["s3", "az", "gs"])
def test_an_object_store_s_address_holds_no_password(scheme: str) -> None:
    uri = f"{scheme}://AKID:s3cret@lake/table"
    for error, use in (
        (SourceError, list_images),
        (SourceError, read_bytes),
        (TableError, arrow_filesystem),
        (TableError, FeaturesTable.find),
    ):
        with pytest.raises(error) as caught:
            use(uri)
        message = str(caught.value)
        assert message.startswith(f"{scheme}://lake")
        assert "was given with a user name and a password, which addresses" in message
        assert "s3cret" not in message


def test_reports_and_models_tell_settings_without_secrets() -> None:
    config = TrainConfig(
        features="https://me:s3cret@h/table",
        model="photo-model",
        weights=f"https://h/w.h5?{PRESIGNED}",
        split_list=f"https://h/splits.csv?{SAS}",
    )
    assert "s3cret" not in str(as_flags(config))
    assert as_flags(config)["weights"] == "https://h/w.h5"
    assert as_flags(config)["split_list"] == "https://h/splits.csv?sv=2024-08-04&se=2030-01-01"


# -- TLS ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def listener(answer: bytes = b"") -> Iterator[tuple[int, list[bytes]]]:
    """A port on 127.0.0.1, and the first bytes of every connection to it."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(5)
                    if data := connection.recv(4096):
                        heard.append(data)
                        connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1], heard
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment with keys and nothing else of AWS or of proxies."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    return monkeypatch


FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
DELTA = {"max_retries": "0", "connect_timeout": "2s", "timeout": "5s"}
USES: dict[str, tuple[type[BottleneckError], Callable[[], object]]] = {
    "images": (SourceError, lambda: list_images("s3://lake/photos")),
    "one file": (SourceError, lambda: read_bytes("s3://lake/list.csv")),
    "weights": (BackboneError, lambda: resolve_weights("s3://lake/w.h5")),
    "shards": (TableError, lambda: arrow_filesystem("s3://lake/table")),
    "log": (TableError, lambda: FeaturesTable.find("s3://lake/table")),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
@pytest.mark.parametrize("allowed", [None, "false"])
def test_plain_http_is_refused_by_every_reader_and_writer(
    aws: pytest.MonkeyPatch, use: str, variable: str, allowed: str | None
) -> None:
    error, act = USES[use]
    with listener(FORBIDDEN) as (port, heard):
        aws.setenv(variable, f"http://127.0.0.1:{port}")
        if allowed is not None:
            aws.setenv("AWS_ALLOW_HTTP", allowed)
        with pytest.raises(error) as caught:
            act()
        assert heard == []
    assert (
        "is behind an endpoint without TLS; set AWS_ALLOW_HTTP=true if that is meant, or use https "
        "in AWS_ENDPOINT_URL"
    ) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("use", USES)
def test_plain_http_is_used_where_it_is_asked_for(aws: pytest.MonkeyPatch, use: str) -> None:
    error, act = USES[use]
    with listener(FORBIDDEN) as (port, heard):
        aws.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        aws.setenv("AWS_ALLOW_HTTP", "true")
        if use == "shards":
            filesystem, root = arrow_filesystem("s3://lake/table")
            with pytest.raises(OSError, match="ACCESS_DENIED"):
                filesystem.get_file_info(root)
        else:
            with pytest.raises(error):
                act()
        assert heard[0].split(b" ")[0] in {b"GET", b"HEAD"}


def test_the_libraries_differ_which_is_why_we_ask_first(aws: pytest.MonkeyPatch) -> None:
    with listener(FORBIDDEN) as (port, heard):
        aws.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        with pytest.raises(OSError, match="URL scheme is not allowed"):
            DeltaTable("s3://lake/table", storage_options=DELTA)
        with pytest.raises(obstore.exceptions.BaseError):
            obstore.head(obstore.store.S3Store("lake"), "photo.jpg")
        assert heard == []
        filesystem, _ = pafs.FileSystem.from_uri("s3://lake")
        with pytest.raises(OSError, match="ACCESS_DENIED"):
            filesystem.get_file_info("lake/table")
        assert heard[0].startswith(b"HEAD ")


def test_an_endpoint_that_only_some_libraries_know_is_refused(aws: pytest.MonkeyPatch) -> None:
    aws.setenv("AWS_ENDPOINT", "https://minio.example")
    for error, act in USES.values():
        with pytest.raises(error, match="cannot be used with AWS_ENDPOINT, which only some of"):
            act()


@pytest.mark.slow
def test_tls_is_the_default(aws: pytest.MonkeyPatch) -> None:
    with listener() as (port, heard):
        aws.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        store = open_store("s3://lake", StoreOptions(timeout_s=5, retry_s=0))
        with pytest.raises(obstore.exceptions.BaseError):
            obstore.head(store, "photo.jpg")
        with pytest.raises(OSError, match="https://s3"):
            DeltaTable("s3://lake/table", storage_options=DELTA)
        assert len(heard) >= 2
        assert {data.split(b" HTTP")[0] for data in heard} == {
            b"CONNECT s3.us-east-1.amazonaws.com:443"
        }
        # pyarrow knows no proxy; of an endpoint without a scheme its default shows.
        heard.clear()
        aws.setenv("AWS_ENDPOINT_URL", f"127.0.0.1:{port}")
        filesystem, root = arrow_filesystem("s3://lake/table")
        with pytest.raises(OSError, match=r"SSL connect error|TLS"):
            filesystem.get_file_info(root)
        # A TLS record of a handshake.
        assert {data[:2] for data in heard} == {b"\x16\x03"}


# -- no code from storage -----------------------------------------------------------------------


class _Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self._marker, "unpickled"))


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """What no test may find written."""
    place = tmp_path / "marker"
    pickle.loads(pickle.dumps(_Bomb(place)))
    assert place.read_text() == "unpickled"
    place.unlink()
    yield place
    assert not place.exists()


def poisoned(marker: Path, form: str) -> bytes:
    """A file that runs code in whoever unpickles what it holds."""
    buffer = io.BytesIO()
    objects = np.array([_Bomb(marker)], dtype=object)
    if form == "pickle":
        return pickle.dumps(_Bomb(marker))
    if form == "npy":
        np.save(buffer, objects, allow_pickle=True)
    elif form == "npz":
        np.savez(buffer, **{"conv1/kernel": objects})
    elif form == "h5":
        with h5py.File(buffer, "w") as file:
            file.attrs["layer_names"] = [b"conv1"]
            group = file.create_group("conv1")
            group.attrs["weight_names"] = [b"kernel"]
            group["kernel"] = np.void(pickle.dumps(_Bomb(marker)))
    else:
        with zipfile.ZipFile(buffer, "w") as file:
            for name in ("metadata.json", "config.json"):
                file.writestr(name, "{}")
            file.writestr("model.weights.npz", poisoned(marker, "npz"))
            file.writestr("model.weights.h5", pickle.dumps(_Bomb(marker)))
    return buffer.getvalue()


FORMS = ("pickle", "npy", "npz", "h5", "keras")


@pytest.fixture(scope="module")
def network() -> Any:
    return keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="conv1")])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", [".npz", ".h5", ".keras", ".weights.h5"])
def test_weights_are_never_unpickled(
    tmp_path: Path, marker: Path, network: Any, form: str, suffix: str
) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(poisoned(marker, form))
    with pytest.raises(BackboneError, match=rf"the weights file w{suffix} does not fit small"):
        load_weights(network, network, path, "small")


@pytest.mark.parametrize("form", FORMS)
def test_checkpoints_are_never_unpickled(tmp_path: Path, marker: Path, form: str) -> None:
    (tmp_path / "state.npz").write_bytes(poisoned(marker, form))
    with pytest.raises(ModelError, match="the checkpoint of the stopped training cannot be read"):
        Checkpoint.load(tmp_path)


@pytest.mark.parametrize("form", FORMS)
def test_models_are_never_unpickled(tmp_path: Path, marker: Path, form: str) -> None:
    data = poisoned(marker, form)
    with pytest.raises(ModelError, match="Keras cannot load the model: "):
        load_keras(data)
    (tmp_path / "model.json").write_bytes(data)
    with pytest.raises(ModelError, match=r"model\.json is no JSON"):
        read_manifest(str(tmp_path))


def test_settings_of_a_stopped_training_are_never_unpickled(tmp_path: Path, marker: Path) -> None:
    from support.labeled import three_splits, write_labeled

    write_labeled(str(tmp_path / "features"), three_splits(count=3))
    (tmp_path / "model" / "unfinished").mkdir(parents=True)
    (tmp_path / "model/unfinished/settings.json").write_bytes(poisoned(marker, "pickle"))
    with pytest.raises(
        ModelError, match=r"settings\.json does not hold the settings of a training"
    ):
        train(
            TrainConfig(
                features=str(tmp_path / "features"), model=str(tmp_path / "model"), resume=True
            )
        )


def test_lists_with_a_pickled_column_type_are_plain(tmp_path: Path, marker: Path) -> None:
    field = pa.field(
        "uri",
        pa.string(),
        metadata={
            "ARROW:extension:name": "arrow.py_extension_type",
            "ARROW:extension:metadata": pickle.dumps(_Bomb(marker)),
        },
    )
    (tmp_path / "photo.png").write_bytes(png(color(1)))
    table = pa.Table.from_arrays([pa.array(["photo.png"])], schema=pa.schema([field]))
    pq.write_table(table, tmp_path / "list.parquet")
    listing = list_images(str(tmp_path / "list.parquet"))
    assert listing.images["image"].to_pylist() == ["photo.png"]


def test_configuration_files_run_nothing(tmp_path: Path, marker: Path) -> None:
    text = f"images: !!python/object/apply:os.system ['touch {marker}']\nfeatures: table\n"
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match="could not determine a constructor for the tag"):
        parsing.parse(ExtractConfig, ["--config", str(tmp_path / "c.yaml")])


def _with_config(data: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                config = json.loads(content)
                change(config)
                content = json.dumps(config).encode()
            new.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize("how", ["function", "class", "unsafe"])
def test_a_model_s_configuration_calls_nothing(marker: Path, how: str) -> None:
    """What Keras before 3.9, 3.11 and 3.12 let a ``.keras`` file do in safe mode."""
    inputs = keras.Input((3,))
    data = keras_bytes(keras.Sequential([inputs, keras.layers.Dense(2)]))
    command = f"touch {marker}"

    def change(config: dict[str, Any]) -> None:
        dense = config["config"]["layers"][-1]
        if how == "function":
            dense["config"]["activation"] = {
                "module": "os", "class_name": "function", "config": "system",
                "registered_name": "system",
            }  # fmt: skip
        elif how == "class":
            dense |= {
                "module": "subprocess", "class_name": "Popen", "registered_name": None,
                "config": {"args": command, "shell": True},
            }  # fmt: skip
        else:
            dense |= {
                "module": "keras.config", "class_name": "enable_unsafe_deserialization",
                "registered_name": None, "config": {},
            }  # fmt: skip

    with pytest.raises(ModelError, match="Keras cannot load the model: "):
        load_keras(_with_config(data, change))
    with pytest.raises(ModelError, match="of a `Lambda` layer"):
        layer = keras.layers.Lambda(lambda x: x * 2)
        load_keras(keras_bytes(keras.Sequential([keras.Input((3,)), layer])))


# -- weights by digest --------------------------------------------------------------------------


@pytest.fixture
def weights_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3: S3Server
) -> Callable[[str, bytes], str]:
    """Puts a weights file somewhere and returns its URI."""
    monkeypatch.setenv("BOTTLENECK_CACHE", str(tmp_path / "cache"))

    def in_bucket(folder: Path, data: bytes) -> str:
        bucket = "weights-" + hashlib.sha256(str(folder).encode()).hexdigest()[:12]
        s3.create_bucket(bucket, {"w.weights.h5": data})
        return f"s3://{bucket}/w.weights.h5"

    return lambda where, data: {"file": _file, "http": _http, "s3": in_bucket}[where](
        tmp_path, data
    )


def _file(folder: Path, data: bytes) -> str:
    (folder / "w.weights.h5").write_bytes(data)
    return str(folder / "w.weights.h5")


_SERVED: dict[str, tuple[int, bytes]] = {}


def _http(folder: Path, data: bytes) -> str:
    path = f"/{folder.name}/w.weights.h5"
    _SERVED[path] = (200, data)
    return f"http://me:s3cret@127.0.0.1:{_site().server_port}{path}"


class _Site(BaseHTTPRequestHandler):
    """Serves what is in `_SERVED` to clients with the password, or with it in the query."""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        user = b64encode(b"me:s3cret").decode()
        known = self.headers.get("Authorization") == f"Basic {user}" or "s3cret" in query
        status, data = _SERVED.get(path, (404, b"")) if known else (401, b"")
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing."""


_sites: list[ThreadingHTTPServer] = []


def _site() -> ThreadingHTTPServer:
    if not _sites:
        _sites.append(ThreadingHTTPServer(("127.0.0.1", 0), _Site))
        threading.Thread(target=_sites[0].serve_forever, daemon=True).start()
    return _sites[0]


@pytest.fixture(autouse=True, scope="module")
def _close_site() -> Iterator[None]:
    yield
    for site in _sites:
        site.shutdown()
        site.server_close()
    _sites.clear()


@pytest.fixture(scope="module")
def good_weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    config = BackboneConfig("mobilenet", alpha=0.25, weights="random:3", image_size=(32, 32))
    place = tmp_path_factory.mktemp("good") / "w.weights.h5"
    network = keras.applications.MobileNet((32, 32, 3), alpha=0.25, include_top=False, weights=None)
    network.set_weights(build_model(config, "float32").model.get_weights()[: len(network.weights)])
    network.save_weights(place)
    return place.read_bytes()


@pytest.mark.parametrize("where", ["file", "http", "s3"])
def test_weights_of_another_digest_are_refused_before_they_are_loaded(
    weights_at: Callable[[str, bytes], str], good_weights: bytes, where: str
) -> None:
    # No weights file at all: if it were loaded, the message would be that of the loader.
    data = b"not what was promised"
    uri = weights_at(where, data)
    asked = hashlib.sha256(good_weights).hexdigest()
    config = BackboneConfig(
        "mobilenet", alpha=0.25, weights=uri, weights_sha256=asked, image_size=(32, 32)
    )
    with pytest.raises(BackboneError) as caught:
        build_model(config, "float32")
    assert str(caught.value) == (
        f"the weights {uri.replace('me:s3cret@', '')!r} have sha256 "
        f"{hashlib.sha256(data).hexdigest()} and weights_sha256 asks for {asked}; correct one of "
        "them"
    )
    weights_at(where, good_weights)
    assert build_model(config, "float32").weights_digest == f"sha256:{asked}"


def test_weights_that_cannot_be_had_are_one_line_without_secrets(
    weights_at: Callable[[str, bytes], str],
) -> None:
    uri = weights_at("http", b"")
    shown = uri.replace("me:s3cret@", "")
    for given in (uri.replace("w.weights", "none.weights"), uri.replace("s3cret", "s3cretx")):
        with pytest.raises(BackboneError) as caught:
            resolve_weights(given)
        assert str(caught.value).startswith("cannot read the weights file 'http://127.0.0.1:")
        assert "s3cret" not in str(caught.value)
        assert "\n" not in str(caught.value)
    assert shown not in uri


# -- archives -----------------------------------------------------------------------------------


def _member(name: str, data: bytes = b"", **more: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in more.items():
        setattr(info, key, value)
    return info, data


def _tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*")
    }


@pytest.mark.parametrize("where", ["local", "s3"])
def test_members_of_an_archive_stay_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3: S3Server, where: str
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "cwd").mkdir()
    (tmp_path / "victim.png").write_bytes(b"mine")
    data = _tar(
        _member("good/a.png", b"a"),
        _member("../../victim.png", b"evil"),
        _member("good/../../victim.png", b"evil"),
        _member(f"{tmp_path}/victim.png", b"evil"),
        _member("link.png", type=tarfile.SYMTYPE, linkname="../victim.png"),
        _member("hard.png", type=tarfile.LNKTYPE, linkname="../victim.png"),
        _member("char.png", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
        _member("block.png", type=tarfile.BLKTYPE),
        _member("pipe.png", type=tarfile.FIFOTYPE),
        _member("folder.png", type=tarfile.DIRTYPE),
        _member("../../label.cls", b"x"),
        _member("good/z.png", b"z"),
    )
    source = str(tmp_path / "source")
    if where == "s3":
        source = "s3://archives-" + tmp_path.name.replace("_", "-")[:40].lower().strip("-")
        s3.create_bucket(source[5:], {"a.tar": data})
    else:
        (tmp_path / "source" / "a.tar").write_bytes(data)
    monkeypatch.chdir(tmp_path / "cwd")
    before = _files(tmp_path)

    listing = list_images(source)
    rows = listing.images.select(["uri", "offset", "bytes"]).to_pylist()
    answers = Fetcher().fetch([FetchRequest(r["uri"], r["offset"], r["bytes"]) for r in rows])

    named = dict(zip(listing.images["image"].to_pylist(), answers, strict=True))
    assert {image: answer.data for image, answer in named.items()} == {
        "a.tar/good/a.png": b"a",
        "a.tar/good/z.png": b"z",
        f"a.tar{tmp_path}/victim.png": b"evil",
    }
    assert listing.skipped == {"hidden": 2, "not_a_file": 5, "sidecar": 1}
    assert _files(tmp_path) == before


def _claiming(size: int, type: bytes = tarfile.REGTYPE) -> bytes:
    """An archive whose second member says that it has this many bytes."""
    info, _ = _member("huge.png", type=type)
    info.size = size
    header = info.tobuf(tarfile.GNU_FORMAT)
    return _tar(_member("a.png", b"a"))[:1024] + header + bytes(10_240)


@pytest.mark.parametrize("size", [10**12, 2**62, 2**63 - 512, 2**80])
@pytest.mark.parametrize(
    "type",
    [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE],
    ids=["file", "long name", "pax", "global pax"],
)
def test_a_member_larger_than_its_archive(tmp_path: Path, size: int, type: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(_claiming(size, type))
    began = time.monotonic()
    with pytest.raises(SourceError) as caught:
        list_images(str(tmp_path))
    assert str(caught.value).startswith(f"{tmp_path}/a.tar ")
    assert "\n" not in str(caught.value)
    # Reading what is promised would never end.
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("real", [10**12, 2**62])
def test_a_sparse_member_is_left_out(tmp_path: Path, real: int) -> None:
    info, _ = _member("sparse.png", type=tarfile.GNUTYPE_SPARSE)
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"\x80" + real.to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data = _tar(_member("a.png", b"a"))
    (tmp_path / "a.tar").write_bytes(data[:1024] + bytes(header) + bytes(10_240))
    listing = list_images(str(tmp_path))
    assert listing.images["image"].to_pylist() == ["a.tar/a.png"]
    assert listing.skipped == {"not_a_file": 1}


# -- pages --------------------------------------------------------------------------------------


class _Outline(html.parser.HTMLParser):
    """What a page consists of: elements with the names of their attributes, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, list[str]]] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, [name for name, _ in attrs]))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", '" onload="alert(1)', "</pre><img>"])
def test_names_add_nothing_to_the_status_page(name: str) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)

    def outline(name: str) -> _Outline:
        size = Size(1, now, 1, 1)
        run = Run(
            run=name, step="extract", source_uri="", first=now, last=now, commits=1,
            first_version=1, last_version=1, rows=1, failed={name: 1}, images_per_s=1.0, nodes=1,
            precision="float32", bytes_read=1, bytes_written=1, size=size,
        )  # fmt: skip
        status = Status(
            table_uri=f"s3://lake/{name}", version=1, rows=1, bytes=1, shards=1,
            statuses={"ok": 1, name: 1}, spec={"backbone": name}, runs=[run], runs_known=1,
            growth=[size],
        )  # fmt: skip
        return _Outline(status_page(status).decode())

    page = outline(name)
    assert page.elements == outline("harmless").elements
    # The address thrice, and one run, failure, status and backbone.
    assert page.text.count(name) == 7
    assert ("meta", ["http-equiv", "content"]) in page.elements


# -- a whole night ------------------------------------------------------------------------------

#: Every job in one process, so that Ray is started once.
_JOBS = """
import json, sys
from bottleneck.__main__ import run

if __name__ == "__main__":
    for line in sys.stdin:
        name, *flags = json.loads(line)
        code = run(name, flags)
        print(json.dumps({"code": code}), flush=True)
        print(f"end of {name}", file=sys.stderr, flush=True)
"""


class _Night:
    """The process that runs the jobs, and all that it printed."""

    def __init__(self, errors: Path, env: dict[str, str]) -> None:
        self._errors, self.printed = errors, ""
        # Opened twice: a file that a process inherits has one position with its parent's, and
        # reading here would move what is written there.
        with errors.open("a") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _JOBS],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, env=env,
            )  # fmt: skip

    def run(self, job: str, *flags: str) -> tuple[int, str]:
        """Returns the exit code, and what this job printed on standard error."""
        assert self._process.stdin is not None and self._process.stdout is not None
        before = len(self.said())
        print(json.dumps([job, *flags]), file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            self.printed += line
            if line.startswith('{"code": '):
                break
        else:
            pytest.fail(f"the process ended in {job}: {self.said()[before:]}")
        deadline = time.monotonic() + 120
        while f"end of {job}\n" not in (said := self.said()[before:]):
            assert self._process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.05)
        return int(json.loads(line)["code"]), said

    def said(self) -> str:
        return self._errors.read_text(errors="replace")

    def close(self) -> None:
        assert self._process.stdin is not None
        # A process that died does not read any more.
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _contents(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """A file's bytes, and what is compressed in it."""
    yield name, data
    if data[:4] == b"PAR1":
        table = pq.read_table(io.BytesIO(data))
        for column in set(table.column_names) - {"features"}:
            yield name, repr(table[column].to_pylist()).encode()
    elif data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.namelist():
                yield f"{name}/{member}", archive.read(member)


def _with_secrets(files: dict[str, bytes]) -> list[str]:
    return sorted(
        {
            place
            for name, data in files.items()
            for place, content in _contents(name, data)
            if b"s3cret" in content
        }
    )


def _below(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def _objects(s3: S3Server, bucket: str) -> dict[str, bytes]:
    client = s3.client()
    listed = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    keys = [entry["Key"] for page in listed for entry in page.get("Contents", [])]
    return {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


def test_the_search_finds_what_is_compressed() -> None:
    parquet, archive = io.BytesIO(), io.BytesIO()
    table = pa.table({"image": ["a s3cret" + "x" * 9] * 99, "features": [[1.0]] * 99})
    pq.write_table(table, parquet, compression="zstd")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("config.json", "x" * 99 + "s3cret")
    assert _with_secrets({"a": parquet.getvalue(), "b": archive.getvalue(), "c": b"none"}) == [
        "a",
        "b/config.json",
    ]


IMAGES = {
    f"{split}/{label}/{number}.png": (label, split)
    for split, count in (("train", 6), ("validation", 2), ("test", 2))
    for label in ("red", "green")
    for number in range(count)
}


def _list_of(site: str, signature: str) -> bytes:
    """The images with every kind of secret that an address may hold, two of them bad."""
    kinds = (
        lambda image: f"{site}/{image}?{PRESIGNED}{signature}&v=1",
        lambda image: f"{site}/{image}?{SAS}{signature}",
        lambda image: f"{image}?token=s3cret{signature}",
        lambda image: f"http://me:s3cret@{site.removeprefix('http://')}/{image}",
        lambda image: image,
    )
    rows = [
        f"{kinds[number % len(kinds)](image)},{label},{split}"
        for number, (image, (label, split)) in enumerate(IMAGES.items())
    ]
    rows += [f"{site}/{name}.png?{PRESIGNED}{signature},red,train" for name in ("gone", "text")]
    return "\n".join(["uri,label,split", *rows]).encode()


@pytest.mark.ray
@pytest.mark.slow
def test_a_night_of_jobs_leaves_no_secret_anywhere(s3: S3Server, tmp_path: Path) -> None:
    site = f"http://127.0.0.1:{_site().server_port}"
    base = f"{site.replace('://', '://me:s3cret@')}/night"
    for number, (image, (label, _)) in enumerate(IMAGES.items()):
        value = (200, 10 * number, 40) if label == "red" else (10 * number, 200, 40)
        _SERVED[f"/night/{image}"] = (200, png(value))
    _SERVED["/night/text.png"] = (200, b"no image")
    _SERVED["/night/list.csv"] = (200, _list_of(f"{site}/night", "1"))
    s3.create_bucket("night")
    # Sockets of Ray lie below: their paths must be short.
    ray_folder = Path(tempfile.mkdtemp(prefix="night"))
    out = tmp_path / "out"
    night = _Night(
        tmp_path / "stderr.txt",
        {
            **os.environ,
            "AWS_ACCESS_KEY_ID": "AKIDs3cret",
            "AWS_SECRET_ACCESS_KEY": "env-s3cret",
            "AWS_SESSION_TOKEN": "session-s3cret",
            "BOTTLENECK_CACHE": str(out / "cache"),
            "RAY_TMPDIR": str(ray_folder),
            "COLUMNS": "80",
        },
    )
    source = [f"--images={base}/list.csv", "--actors=1", "--batch-size=8"]
    computing = ["--backbone=channel-means", "--weights=none", "--image-size", "8", "8"]
    table = "--features=s3://night/features"
    try:
        code, said = night.run(
            "extract", *source, table, *computing, "--max-failed=0", f"--summary={out}/extract.json"
        )
        assert (code, "2 images failed and --max-failed 0 allows 0" in said) == (1, True), said
        first = json.loads((out / "extract.json").read_text())
        assert (first["new"], first["failed"]) == (22, {"missing": 1, "not_an_image": 1})

        # Signed anew, the same images: nothing to do.
        _SERVED["/night/list.csv"] = (200, _list_of(f"{site}/night", "2"))
        code, said = night.run(
            "extract", *source, table, *computing, f"--summary={out}/extract.json"
        )
        again = json.loads((out / "extract.json").read_text())
        assert (code, again["outcome"], again["unchanged"]) == (0, "unchanged", 22), said

        splits = "\n".join(f"{row['image']},{row['split']}" for row in _rows("s3://night/features"))
        _SERVED["/night/splits.csv"] = (200, f"image,split\n{splits}".encode())
        code, said = night.run(
            "train", table, "--model=s3://night/model", f"--split-list={base}/splits.csv",
            "--head=linear", "--epochs=2", f"--summary={out}/train.json",
        )  # fmt: skip
        assert code == 0, said
        code, said = night.run(
            "predict", *source, "--model=s3://night/model", "--predictions=s3://night/predictions",
            f"--report={out}/report.html", f"--summary={out}/predict.json",
        )  # fmt: skip
        assert code == 0, said
        for plot in ("page.html", "page.png"):
            code, said = night.run("status", table, f"--plot={out}/{plot}")
            assert code == 0, said
        night.run("status", table, "--json")

        for job, *flags in (
            ("extract", *source, table, *computing[:-2], "16", "16"),
            ("extract", f"--images={base}/none.csv?{SAS}", table, *computing),
            ("extract", f"--images={base}/none/?{PRESIGNED}", table, *computing),
            ("extract", f"--images={base}/text.png", table, *computing),
            ("extract", *source, "--features=s3://AKID:s3cret@night/t", *computing),
            ("extract", *source, "--features=http://me:s3cret@127.0.0.1/t", *computing),
            ("extract", *source, table, "--weights", f"{base}/none.h5"),
            ("extract", *source, table, "--weights", f"{base}/none?{SAS}"),
            ("extract", f"--config={base}/none.yaml"),
            ("extract", f"--imagse={base}", table),
            ("extract", *source, table, f"--batch-size={base}"),
            ("extract", *source, table, f"--address={base}", f"--resize={base}?{SAS}"),
            ("train", table, f"--model={base}/model?{SAS}", f"--split-list={base}/none.csv"),
            ("predict", *source, f"--model={base}/model", "--predictions=s3://night/p"),
            ("predict", table, f"--model=imagenet:{base}", "--predictions=s3://night/p"),
            ("status", f"--features={base}/table?{SAS}"),
            ("status", table, f"--plot={base}/page.gif"),
        ):
            code, said = night.run(job, *flags)
            assert code == 2, (job, flags, said)
            assert said.count("\n") == 2, said
    finally:
        night.close()
    printed = {"standard output": night.printed.encode(), "standard error": night.said().encode()}
    objects, sessions = _objects(s3, "night"), _below(ray_folder)
    shutil.rmtree(ray_folder, ignore_errors=True)

    assert {"model/model.json", "model/report.html", "model/model.keras"} <= objects.keys()
    # The log holds the properties and every commit's figures.
    log = b"".join(data for name, data in objects.items() if name.startswith("features/_delta_log"))
    assert b"bottleneck.layer" in log
    assert f"{site}/night/list.csv".encode() in log
    assert any(name.startswith("predictions/shard-") for name in objects)
    assert any("/logs/" in name for name in sessions)
    assert {"extract.json", "train.json", "predict.json", "report.html", "page.html"} <= {
        path.name for path in out.iterdir()
    }
    assert _with_secrets(printed) == []
    assert _with_secrets(objects) == []
    assert _with_secrets(_below(out)) == []
    assert _with_secrets(sessions) == []
    images = [row["image"] for row in _rows("s3://night/features")]
    assert f"{site}/night/train/red/0.png?X-Amz-Algorithm=AWS4-HMAC-SHA256&v=1" not in images
    assert f"{site}/night/train/red/0.png?v=1" in images
    assert f"{site}/night/train/red/1.png?sv=2024-08-04&se=2030-01-01" in images
    assert {"train/red/2.png", f"{site}/night/train/red/3.png", "train/red/4.png"} <= set(images)


def _rows(uri: str) -> list[dict[str, Any]]:
    return read_snapshot(FeaturesTable.open(uri).snapshot())
