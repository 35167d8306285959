"""What happens when things die: real signals to real processes, exact rows afterwards."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from coloured import Colour, colour, colours_of, png, read
from ray.cluster_utils import Cluster
from s3_server import S3Server

from bottleneck.features import FeaturesTable

# A run takes half a minute on an idle machine, several on a loaded one.
pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).resolve().parents[1]
RAY = str(Path(sys.executable).with_name("ray"))
IMAGES = 200
#: Large enough that decoding takes a while: the run is still under way when it is hit.
SIZE = (1200, 1200)


@pytest.fixture(scope="module")
def cluster(s3_session: S3Server) -> Iterator[Cluster]:
    """A head that drivers connect to, in processes of its own."""
    started = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False}
    )
    yield started
    started.shutdown()


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Colour]:
    return {f"things/{i:04d}.png": colour(i) for i in range(IMAGES)}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, wanted: dict[str, Colour]) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    (folder / "things").mkdir()
    for name, value in wanted.items():
        (folder / name).write_bytes(png(value, SIZE))
    return folder


class Driver:
    """A run of the job in a process of its own."""

    def __init__(self, cluster: Cluster, images: str | Path, table: str, *flags: str) -> None:
        command = [sys.executable, "jobs/extract.py", f"--images={images}", f"--features={table}"]
        command += ["--backbone=channel-means", "--weights=none", "--batch-size=8"]
        command += ["--cpus-per-actor=1", "--actors=1"]
        command += [f"--address={cluster.address}", "--commit-every=1 shard", "--shard-mb=0.001"]
        self.table = table
        self.process = subprocess.Popen(
            [*command, *flags],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait_for_commits(self, number: int) -> None:
        """Returns when the table has this many commits and the run goes on."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"ended too early: {self.process.communicate()}")
            if (Path(self.table) / f"_delta_log/{number:020d}.json").exists():
                return
            time.sleep(0.02)
        self.process.kill()
        raise AssertionError(f"no commit {number} in time: {self.process.communicate()}")

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Keeps the run from going on, however slow the rest is."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def finish(self, timeout_s: float = 180) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, out, err


@pytest.fixture
def table(tmp_path: Path) -> str:
    return str(tmp_path / "features")


@pytest.fixture
def drive(cluster: Cluster, photos: Path, table: str) -> Iterator[Callable[..., Driver]]:
    drivers: list[Driver] = []

    def start(*flags: str, images: str | Path = photos, target: str = table) -> Driver:
        drivers.append(Driver(cluster, images, target, *flags))
        return drivers[-1]

    yield start
    for driver in drivers:
        if driver.process.poll() is None:
            driver.process.kill()
            driver.process.wait()


def require_each_version_exact(table: str, wanted: dict[str, Colour]) -> int:
    """Every version shows each image at most once with its own colour; returns the last rows."""
    last = FeaturesTable.open(table).snapshot().version
    for version in (last // 2, last):
        seen = colours_of(read(table, version))
        assert len({image for image, _ in seen}) == len(seen)
        assert all(wanted[image] == value for image, value in seen)
    return len(seen)


def test_killed_driver_loses_no_commit_and_repeats_at_most_one_interval(
    drive: Callable[..., Driver], table: str, wanted: dict[str, Colour]
) -> None:
    first = drive()
    first.wait_for_commits(4)
    os.killpg(first.process.pid, signal.SIGKILL)
    first.process.wait()
    kept = require_each_version_exact(table, wanted)
    assert 0 < kept < IMAGES
    code, out, err = drive().finish()
    assert code == 0, err
    assert f"unchanged   {kept}\n" in out
    assert f"new         {IMAGES - kept}\n" in out
    assert colours_of(read(table)) == sorted(wanted.items())


def ray_processes(cluster: Cluster, title: str) -> list[psutil.Process]:
    raylets = {
        process.process.pid
        for node in cluster.list_all_nodes()
        for process in node.all_processes.get("raylet", [])
    }
    return [
        process
        for process in psutil.process_iter(["cmdline", "ppid"])
        if process.info["ppid"] in raylets and title in " ".join(process.info["cmdline"] or [])
    ]


@pytest.mark.parametrize("victim", ["BackboneActor", "fetch_and_decode"])
def test_a_killed_worker_does_not_matter(
    drive: Callable[..., Driver],
    cluster: Cluster,
    table: str,
    wanted: dict[str, Colour],
    victim: str,
) -> None:
    driver = drive()
    driver.wait_for_commits(2)
    deadline = time.monotonic() + 30
    while not (found := ray_processes(cluster, victim)):
        assert time.monotonic() < deadline, f"no process of {victim}"
        time.sleep(0.01)
    os.kill(found[0].pid, signal.SIGKILL)
    code, _, err = driver.finish()
    assert code == 0, err
    assert require_each_version_exact(table, wanted) == IMAGES


@pytest.mark.parametrize("notice", [False, True], ids=["sudden death", "drain notice"])
def test_a_lost_node_does_not_matter(
    drive: Callable[..., Driver],
    cluster: Cluster,
    table: str,
    wanted: dict[str, Colour],
    notice: bool,
) -> None:
    node = cluster.add_node(num_cpus=2)
    try:
        driver = drive("--actors=4")
        driver.wait_for_commits(3)
        if notice:
            # What Ray does when a cloud announces the end of a spot node, two minutes before.
            subprocess.run(
                [RAY, "drain-node", f"--address={cluster.address}", f"--node-id={node.node_id}",
                 "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot interruption",
                 "--deadline-remaining-seconds=2"],
                check=True,
                capture_output=True,
            )  # fmt: skip
            time.sleep(2)
        # SIGKILL of the raylet; the blocks and actors of the node go with it.
        cluster.remove_node(node, allow_graceful=False)
        node = None
        code, _, err = driver.finish()
    finally:
        if node is not None:
            cluster.remove_node(node)
    assert code == 0, err
    assert require_each_version_exact(table, wanted) == IMAGES
    assert colours_of(read(table)) == sorted(wanted.items())


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_commits_what_is_finished(
    drive: Callable[..., Driver], table: str, wanted: dict[str, Colour], signum: signal.Signals
) -> None:
    driver = drive("--commit-every=1h")
    deadline = time.monotonic() + 60
    while not list(Path(table).glob("shard-*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    driver.process.send_signal(signum)
    code, out, err = driver.finish(60)
    assert code == 128 + signum, err
    assert f"stopping after {signum.name}" in err
    assert out.startswith("Interrupted (run ")
    kept = require_each_version_exact(table, wanted)
    assert 0 < kept < IMAGES
    if signum is signal.SIGINT:
        return  # What a run continues from does not depend on the signal.
    code, out, _ = drive("--commit-every=1h").finish()
    assert code == 0
    assert f"unchanged   {kept}\n" in out
    assert colours_of(read(table)) == sorted(wanted.items())


def test_of_two_runs_at_once_one_leaves_and_says_why(
    drive: Callable[..., Driver], table: str, wanted: dict[str, Colour]
) -> None:
    first = drive()
    first.wait_for_commits(1)
    with first.paused():
        code, out, err = drive().finish()
    assert (code, out) == (75, "")
    assert re.fullmatch(
        rf"error: run \w{{12}} \(process {first.process.pid} on \S+\) is at work on {table}, last "
        r"heard of \d:\d\d ago; let it finish. [^\n]*--take-over\n",
        err,
    )
    code, _, err = first.finish()
    assert code == 0, err
    assert require_each_version_exact(table, wanted) == IMAGES


def test_a_run_that_is_taken_over_ends_and_loses_nothing(
    drive: Callable[..., Driver], cluster: Cluster, table: str, wanted: dict[str, Colour]
) -> None:
    first = drive()
    first.wait_for_commits(1)
    with first.paused():
        # The paused run's tasks keep their CPUs.
        cluster.add_node(num_cpus=2)
        before = FeaturesTable.open(table).snapshot().version
        second = drive("--take-over")
        # Its lease, and a commit under it.
        second.wait_for_commits(before + 2)
        second.process.send_signal(signal.SIGSTOP)
    code, out, err = first.finish()
    assert (code, out) == (75, "")
    assert f"run {run_of(table)} (process {second.process.pid} on " in err
    second.process.send_signal(signal.SIGCONT)
    code, _, err = second.finish()
    assert code == 0, err
    assert require_each_version_exact(table, wanted) == IMAGES
    assert colours_of(read(table)) == sorted(wanted.items())


def run_of(table: str) -> str:
    """The run of the newest commit."""
    return FeaturesTable.open(table).commits(limit=5)[0].run


def test_a_full_disk_ends_the_run_and_costs_nothing_committed(
    drive: Callable[..., Driver], tmp_path: Path, wanted: dict[str, Colour]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        target = str(disk / "features")
        driver = drive(target=target)
        driver.wait_for_commits(1)
        other = disk / "filled-by-others"
        with pytest.raises(OSError, match="No space left"), other.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        code, _, err = driver.finish()
        assert code in (1, 2), err
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert "No space left on device" in lines[0]
        assert "Traceback" not in err
        kept = require_each_version_exact(target, wanted)
        assert 0 < kept < IMAGES
        other.unlink()
        code, out, err = drive(target=target).finish()
        assert code == 0, err
        assert f"unchanged   {kept}\n" in out
        assert colours_of(read(target)) == sorted(wanted.items())
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_storage_that_fails_for_a_while_under_a_killed_driver(
    drive: Callable[..., Driver], s3: S3Server, photos: Path, wanted: dict[str, Colour]
) -> None:
    """Over S3, where requests can be counted: at most one interval is read twice."""
    s3.create_bucket("crash")
    s3.put_objects("crash", {f"photos/{n}": (photos / n).read_bytes() for n in wanted})
    source, target = "s3://crash/photos", "s3://crash/table"
    s3.reset()
    s3.fail(503, n_requests=20, match=r"GET /crash/photos/.*png")
    driver = drive(images=source, target=target)
    deadline = time.monotonic() + 120
    while not any("/crash/table/_delta_log/" + "3".zfill(20) in line for line in s3.counts()):
        assert time.monotonic() < deadline, driver.finish(1)
        time.sleep(0.05)
    driver.process.kill()
    driver.process.wait()
    time.sleep(2)
    kept = len(colours_of(read(target)))
    first_reads = reads(s3)
    s3.reset()
    s3.fail(500, n_requests=5, match=r"GET /crash/photos/.*png")
    code, _, err = drive(images=source, target=target).finish()
    assert code == 0, err
    assert colours_of(read(target)) == sorted(wanted.items())
    second_reads = reads(s3)
    assert second_reads == IMAGES - kept
    assert first_reads <= IMAGES


def reads(s3: S3Server) -> int:
    done: Any = s3.requests()
    return sum(
        1
        for request in done
        if request.method == "GET" and "/photos/" in request.path and request.status == 200
    )
