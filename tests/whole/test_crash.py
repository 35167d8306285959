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

import psutil
import pytest
from ray.cluster_utils import Cluster
from support.images import Color, color, colors_of, png, read
from support.paths import ROOT
from support.ray_head import RAY, Head, add_node, cluster_of, running

from benchmarks.support.s3_server import S3Server
from bottleneck.table.table import FeaturesTable

# A run takes half a minute on an idle machine, several on a loaded one, and a test has up to three.
pytestmark = [pytest.mark.timeout(1800), pytest.mark.ray, pytest.mark.slow]

IMAGES = 200
#: Large enough that decoding takes a while: the run is still under way when it is hit.
SIZE = (1200, 1200)


@pytest.fixture(scope="module")
def cluster(s3_session: S3Server) -> Iterator[Cluster]:
    """A head that drivers connect to, in processes of its own."""
    with cluster_of(num_cpus=4) as started:
        yield started


@pytest.fixture(scope="module")
def wanted() -> dict[str, Color]:
    return {f"things/{i:04d}.png": color(i) for i in range(IMAGES)}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, wanted: dict[str, Color]) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    (folder / "things").mkdir()
    for name, value in wanted.items():
        (folder / name).write_bytes(png(value, SIZE))
    return folder


class Driver:
    """A run of the job in a process of its own."""

    def __init__(
        self,
        cluster: Cluster | Head,
        images: str | Path,
        table: str,
        *flags: str,
        environment: dict[str, str] | None = None,
    ) -> None:
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
            env=environment,
            start_new_session=True,
        )

    def wait_for_commits(self, number: int) -> None:
        """Returns when the table has this many commits and the run goes on."""
        entry = Path(self.table) / f"_delta_log/{number:020d}.json"
        self.wait_until(entry.exists, f"commit {number}")

    def wait_until(self, seen: Callable[[], object], what: str) -> None:
        """Returns when something was seen and the run goes on."""
        deadline = time.monotonic() + 300
        while self.process.poll() is None:
            if seen():
                return
            if time.monotonic() > deadline:
                self.process.kill()
                raise AssertionError(f"no {what} in time: {self.process.communicate()}")
            time.sleep(0.02)
        raise AssertionError(f"ended before {what}: {self.process.communicate()}")

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Keeps the run from going on, however slow the rest is."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def finish(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=600)
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


def ray_processes(cluster: Cluster, *titles: str) -> list[psutil.Process]:
    """Workers of the cluster that are at one of these tasks or actors."""
    raylets = {
        process.process.pid
        for node in cluster.list_all_nodes()
        for process in node.all_processes.get("raylet", [])
    }
    return [
        process
        for process in psutil.process_iter(["cmdline", "ppid"])
        if process.info["ppid"] in raylets
        and any(title in " ".join(process.info["cmdline"] or []) for title in titles)
    ]


def kill_worker(cluster: Cluster, title: str) -> bool:
    """Kills a worker that is at this task or actor; False if none is."""
    for process in ray_processes(cluster, title):
        with contextlib.suppress(psutil.Error):
            # A worker may go on to another task at any moment; one that is stopped does not.
            process.suspend()
            if title in " ".join(process.cmdline()):
                process.kill()
                return True
            process.resume()
    return False


def require_each_version_exact(table: str, wanted: dict[str, Color]) -> int:
    """Every version shows each image at most once with its own color; returns the last rows."""
    last = FeaturesTable.open(table).snapshot().version
    for version in (last // 2, last):
        seen = colors_of(read(table, version))
        assert len({image for image, _ in seen}) == len(seen)
        assert all(wanted[image] == value for image, value in seen)
    return len(seen)


def test_a_killed_driver_loses_no_commit_and_killed_workers_lose_nothing(
    drive: Callable[..., Driver], cluster: Cluster, table: str, wanted: dict[str, Color]
) -> None:
    first = drive()
    first.wait_for_commits(4)
    os.killpg(first.process.pid, signal.SIGKILL)
    first.process.wait()
    kept = require_each_version_exact(table, wanted)
    assert 0 < kept < IMAGES
    # Nor does it matter that the next run loses two workers.
    second = drive()
    second.wait_until(lambda: kill_worker(cluster, "ImageReader.read"), "ImageReader.read")
    second.wait_for_commits(FeaturesTable.open(table).snapshot().version + 2)
    with second.paused():
        assert kill_worker(cluster, "NetworkActor")
        assert second.process.poll() is None
    code, out, err = second.finish()
    assert code == 0, err
    assert f"unchanged   {kept}\n" in out
    assert f"new         {IMAGES - kept}\n" in out
    assert require_each_version_exact(table, wanted) == IMAGES
    assert colors_of(read(table)) == sorted(wanted.items())


def test_lost_nodes_do_not_matter_announced_or_not(
    drive: Callable[..., Driver], cluster: Cluster, table: str, wanted: dict[str, Color]
) -> None:
    nodes = [add_node(cluster, num_cpus=1) for _ in range(2)]
    try:
        driver = drive("--actors=4")
        driver.wait_for_commits(3)
        with driver.paused():
            # What Ray does when a cloud announces the end of a spot node, two minutes before.
            subprocess.run(
                [RAY, "drain-node", f"--address={cluster.address}",
                 f"--node-id={nodes[0].node_id}", "--reason=DRAIN_NODE_REASON_PREEMPTION",
                 "--reason-message=spot interruption", "--deadline-remaining-seconds=2"],
                check=True,
                capture_output=True,
            )  # fmt: skip
            time.sleep(2)
            while nodes:
                # SIGKILL of the raylet; the blocks and actors of the node go with it.
                cluster.remove_node(nodes.pop(), allow_graceful=False)
            assert driver.process.poll() is None
        code, _, err = driver.finish()
    finally:
        for node in nodes:
            cluster.remove_node(node)
    assert code == 0, err
    assert require_each_version_exact(table, wanted) == IMAGES
    assert colors_of(read(table)) == sorted(wanted.items())


def test_a_signal_commits_what_is_finished(
    drive: Callable[..., Driver], table: str, wanted: dict[str, Color]
) -> None:
    """SIGTERM; that SIGINT is no different is in console/test_interruption.py."""
    driver = drive("--commit-every=1h")
    driver.wait_until(lambda: list(Path(table).glob("shard-*")), "shard")
    driver.process.send_signal(signal.SIGTERM)
    code, out, err = driver.finish()
    assert code == 143, err
    assert "stopping after SIGTERM" in err
    assert out.startswith("Interrupted (run ")
    kept = require_each_version_exact(table, wanted)
    assert 0 < kept < IMAGES
    code, out, err = drive("--commit-every=1h").finish()
    assert code == 0, err
    assert f"unchanged   {kept}\n" in out
    assert colors_of(read(table)) == sorted(wanted.items())


def test_of_two_runs_at_once_one_leaves_and_says_why_unless_it_takes_over(
    drive: Callable[..., Driver], cluster: Cluster, table: str, wanted: dict[str, Color]
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
    # The one at work goes on, until another takes over; then it loses nothing of what it has.
    first.wait_for_commits(FeaturesTable.open(table).snapshot().version + 1)
    with first.paused():
        # The paused run's tasks keep their CPUs.
        node = add_node(cluster, num_cpus=2)
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
    cluster.remove_node(node)
    assert code == 0, err
    assert require_each_version_exact(table, wanted) == IMAGES
    assert colors_of(read(table)) == sorted(wanted.items())


def run_of(table: str) -> str:
    """The run of the newest commit."""
    return FeaturesTable.open(table).commits(limit=5)[0].run


def test_a_full_disk_ends_the_run_and_costs_nothing_committed(
    drive: Callable[..., Driver], tmp_path: Path, wanted: dict[str, Color]
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
        assert colors_of(read(target)) == sorted(wanted.items())
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_storage_that_fails_for_a_while_under_a_killed_driver(
    drive: Callable[..., Driver],
    cluster: Cluster,
    s3: S3Server,
    photos: Path,
    wanted: dict[str, Color],
) -> None:
    """Over S3, where requests can be counted: what is committed is never read again."""
    s3.create_bucket("crash")
    # Enough to be under way when it is hit: every commit takes its time here.
    wanted = dict(sorted(wanted.items())[: IMAGES // 2])
    s3.put_objects("crash", {f"photos/{n}": (photos / n).read_bytes() for n in wanted})
    source, target = "s3://crash/photos", "s3://crash/table"
    s3.reset()
    s3.fail(503, n_requests=20, match=r"GET /crash/photos/.*png")
    driver = drive(images=source, target=target)
    third = "/crash/table/_delta_log/" + "3".zfill(20)
    driver.wait_until(lambda: any(third in line for line in s3.counts()), "third commit")
    driver.process.kill()
    driver.process.wait()
    wait_until_quiet(cluster, s3)
    kept = len(colors_of(read(target)))
    assert 0 < kept <= reads(s3) <= len(wanted)
    # A commit is due with every shard, so what is lost is those that were being written: one on
    # the only node and one on its way.
    listed = s3.client().list_objects_v2(Bucket="crash", Prefix="table/shard-")["Contents"]
    committed = FeaturesTable.open(target).snapshot().shards
    assert 0 <= len(listed) - len(committed) <= 2
    s3.reset()
    s3.fail(500, n_requests=5, match=r"GET /crash/photos/.*png")
    code, _, err = drive(images=source, target=target).finish()
    assert code == 0, err
    assert colors_of(read(target)) == sorted(wanted.items())
    assert reads(s3) == len(wanted) - kept


def test_a_lost_head_ends_the_run_and_costs_nothing_committed(
    photos: Path, table: str, wanted: dict[str, Color]
) -> None:
    """Of a head that keeps its state in memory, as `ray start` and `ray up` make it.

    Ray itself ends a process that has lost its head for a minute, here for some seconds.
    """
    flags = ("--num-cpus=4", "--num-gpus=0", "--object-store-memory=150000000")
    with running(lambda: Head(*flags, "--include-dashboard=false")) as head:
        # Without what the Ray of this process left in its environment, a token for itself.
        environment = head.environment | {"RAY_gcs_rpc_server_reconnect_timeout_s": "15"}
        driver = Driver(head, photos, table, environment=environment)
        try:
            driver.wait_for_commits(3)
            (gcs,) = head.processes("gcs_server")
            gcs.kill()
            code, out, err = driver.finish()
        finally:
            driver.process.kill()
    assert (code, out) == (1, ""), err
    assert f"the head of the cluster at {head.address} does not answer; unless it comes back" in err
    assert "Traceback" not in err
    assert 0 < require_each_version_exact(table, wanted) < IMAGES


def wait_until_quiet(cluster: Cluster, s3: S3Server) -> None:
    """Returns when the tasks of a driver that died have ended, which Ray does in its own time."""
    deadline = time.monotonic() + 60
    seen, since = -1, time.monotonic()
    while time.monotonic() - since < 1:
        working = ray_processes(cluster, "ImageReader.read", "NetworkActor", "write_blocks")
        if working or len(s3.requests()) != seen:
            seen, since = len(s3.requests()), time.monotonic()
        assert time.monotonic() < deadline, working
        time.sleep(0.1)


def reads(s3: S3Server) -> int:
    return sum(
        request.method == "GET" and "/photos/" in request.path and request.status == 200
        for request in s3.requests()
    )
