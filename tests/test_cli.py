"""The command line as a user meets it: one line an error, exit codes, nothing written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from support.images import draw, numbered
from support.paths import ROOT

from benchmarks.support.s3_server import S3Server
from bottleneck.cli import run_job
from bottleneck.errors import RunFailedError
from bottleneck.extraction.config import ExtractConfig
from bottleneck.extraction.job import extract
from bottleneck.incremental.summary import Summary

JOB = ROOT / "jobs" / "extract.py"
FAKE = ["--backbone=channel-means", "--weights=none", "--actors=1"]


def command(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(JOB), *flags],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def only_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line on the standard error stream, without ``error: ``."""
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.endswith("\n")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "\x1b" not in done.stderr
    return done.stderr.removeprefix("error: ").rstrip("\n")


class Places:
    """Sources that are wrong in one way each."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.table = root / "lake" / "table"
        self.photos = root / "photos"
        draw(self.photos, numbered(2))
        (root / "empty").mkdir()
        (root / "texts").mkdir()
        (root / "texts/a.txt").write_text("x")
        (root / "photo.jpg").write_bytes(b"x")
        (root / "no-uri.csv").write_text("path,label\na.png,cat\n")
        (root / "empty.csv").write_text("")
        (root / "only-header.csv").write_text("uri,label\n")
        (root / "twice.csv").write_text("uri\nphotos/a.png\nphotos/a.png\n")
        (root / "bad.jsonl").write_text("{not json\n")
        (root / "bad.parquet").write_bytes(b"PAR1 is not enough")
        (root / "bad.tar").write_bytes(b"\xff" * 2_000)
        with tarfile.open(root / "empty.tar", "w"):
            pass
        (root / "home").mkdir()
        (root / "home/letter.txt").write_text("dear")
        write_deltalake(str(root / "sales"), pa.table({"price": [1]}))


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    return Places(tmp_path_factory.mktemp("places"))


#: Name → (flags in terms of the places, words that the message must have). All of them end before
#: Ray starts.
CASES: dict[str, tuple[Callable[[Places], list[str]], list[str]]] = {
    "missing folder": (
        lambda p: [f"--images={p.root}/nowhere"],
        ["/nowhere does not exist; check the path"],
    ),
    "empty folder": (lambda p: [f"--images={p.root}/empty"], ["/empty", "holds no image"]),
    "no images": (lambda p: [f"--images={p.root}/texts"], ["/texts", "holds no image", ".jpg"]),
    "one photo": (lambda p: [f"--images={p.root}/photo.jpg"], ["photo.jpg is a single file"]),
    "list without uri": (
        lambda p: [f"--images={p.root}/no-uri.csv"],
        ["no-uri.csv", "uri", "path"],
    ),
    "empty list": (lambda p: [f"--images={p.root}/empty.csv"], ["empty.csv"]),
    "list of nothing": (lambda p: [f"--images={p.root}/only-header.csv"], ["only-header.csv"]),
    "list with duplicates": (lambda p: [f"--images={p.root}/twice.csv"], ["photos/a.png"]),
    "bad JSON lines": (lambda p: [f"--images={p.root}/bad.jsonl"], ["bad.jsonl"]),
    "bad Parquet": (lambda p: [f"--images={p.root}/bad.parquet"], ["bad.parquet"]),
    "missing list": (lambda p: [f"--images={p.root}/none.csv"], ["none.csv does not exist"]),
    "list with a layout": (
        lambda p: [f"--images={p.root}/no-uri.csv", "--layout=label"],
        ["layout 'label' is not allowed", "no-uri.csv"],
    ),
    "damaged tar": (lambda p: [f"--images={p.root}/bad.tar"], ["bad.tar"]),
    "empty tar": (lambda p: [f"--images={p.root}/empty.tar"], ["empty.tar", "holds no image"]),
    "missing bucket": (
        lambda p: ["--images=s3://missing-photos/nothing"],
        ["s3://missing-photos", "does not exist"],
    ),
    "refused bucket": (
        lambda p: ["--images=s3://refused-photos/nothing"],
        ["s3://refused-photos", "credentials"],
    ),
    "empty bucket": (
        lambda p: ["--images=s3://empty-photos/nothing"],
        ["s3://empty-photos/nothing", "does not exist or is empty"],
    ),
    "unknown scheme": (lambda p: ["--images=nosuch://a/b"], ["nosuch://a/b"]),
    "secret address": (lambda p: ["--images=ftp://me:hunter2@127.0.0.1:1/photos"], ["127.0.0.1"]),
    "no flags": (lambda p: [], ["--images is missing"]),
    "unknown flag": (lambda p: ["--imagse=x"], ["--imagse"]),
    "unknown choice": (lambda p: [f"--images={p.photos}", "--resize=stretch"], ["stretch", "crop"]),
    "bad number": (lambda p: [f"--images={p.photos}", "--batch-size=0"], ["--batch-size 0"]),
    "bad interval": (
        lambda p: [f"--images={p.photos}", "--commit-every=x"],
        ["--commit-every 'x'"],
    ),
    "bad limit": (lambda p: [f"--images={p.photos}", "--max-failed=200%"], ["--max-failed '200%'"]),
    "two steps": (
        lambda p: [f"--images={p.photos}", "--dry-run", "--compact"],
        ["--dry-run and --compact are separate steps"],
    ),
    "missing config": (lambda p: [f"--config={p.root}/none.yaml"], ["none.yaml does not exist"]),
    "table in a used folder": (
        lambda p: [f"--images={p.photos}", f"--features={p.root}/home"],
        ["/home holds other things (letter.txt"],
    ),
    "table is a file": (
        lambda p: [f"--images={p.photos}", f"--features={p.root}/photo.jpg"],
        ["photo.jpg is a file; a table needs a folder"],
    ),
    "somebody else's table": (
        lambda p: [f"--images={p.photos}", f"--features={p.root}/sales"],
        ["not a features table", "/sales"],
    ),
    "table of no scheme": (
        lambda p: [f"--images={p.photos}", "--features=ftp://host/table"],
        ["ftp://host/table is not an address that a table can have"],
    ),
    "nothing to vacuum": (lambda p: ["--vacuum=7"], ["there is no features table at", "/table"]),
    "nothing to compact": (lambda p: ["--compact"], ["there is no features table at", "/table"]),
}


#: The job in a forked child for each list of flags: most of a run that fails is Python importing.
_FORKS = """
import json, os, sys, tempfile
import bottleneck.extraction.job
from bottleneck.__main__ import run
for flags in json.load(sys.stdin):
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            code = 99
            try:
                code = run("extract", flags)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        printed = []
        for file in (out, err):
            file.seek(0)
            printed.append(file.read().decode())
        print(json.dumps([code, *printed]), flush=True)
"""


@pytest.fixture(scope="module")
def outcomes(places: Places, s3_session: S3Server) -> dict[str, subprocess.CompletedProcess[str]]:
    for bucket in ("refused-photos", "empty-photos"):
        s3_session.create_bucket(bucket)
    s3_session.fail(403, match="refused-photos", code="InvalidAccessKeyId")
    jobs = []
    for flags_of, _ in CASES.values():
        flags = flags_of(places)
        if not any(flag.startswith("--features") for flag in flags):
            flags.append(f"--features={places.table}")
        jobs.append(flags)
    done = subprocess.run(
        [sys.executable, "-c", _FORKS],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    s3_session.reset()
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {
        case: subprocess.CompletedProcess(flags, code, out, err)
        for case, flags, (code, out, err) in zip(CASES, jobs, found, strict=True)
    }


@pytest.mark.parametrize("case", CASES)
def test_what_a_user_can_mend_is_one_line_and_writes_nothing(
    outcomes: dict[str, subprocess.CompletedProcess[str]], places: Places, case: str
) -> None:
    message = only_line(outcomes[case])
    for word in CASES[case][1]:
        assert word in message
    assert not (places.root / "lake").exists()
    assert sorted(path.name for path in (places.root / "home").iterdir()) == ["letter.txt"]


def test_a_secret_in_an_address_is_not_printed(
    outcomes: dict[str, subprocess.CompletedProcess[str]],
) -> None:
    assert "hunter2" not in only_line(outcomes["secret address"])


def test_help_is_there_and_costs_no_ray() -> None:
    done = command("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Computes features of all images of a source" in done.stdout


# What needs Ray


def in_process(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str, str]:
    code = run_job(ExtractConfig, extract, flags)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    draw(tmp_path / "photos", numbered(3))
    return tmp_path / "photos"


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--backbone=vgg61"], ["vgg61", "vgg16"]),
        (["--backbone=vgg16", "--alpha=0.5"], ["alpha"]),
        (["--backbone=mobilenet", "--alpha=0.25", "--layer=conv_pw_9_rleu"], ["conv_pw_9_relu"]),
        (["--backbone=mobilenet", "--alpha=0.25", "--image-size", "8", "8"], ["8"]),
        (["--weights=random:x"], ["random:x"]),
        (["--weights={photos}/nothing.h5"], ["nothing.h5", "there is no such file"]),
        (["--weights={photos}/things/000000.png"], ["000000.png"]),
        (["--weights={photos}/things/000000.png", f"--weights-sha256={'0' * 64}"], ["0000"]),
        (["--weights=s3://no-such-bucket-here/w.h5"], ["s3://no-such-bucket-here/w.h5"]),
        (["--cpus-per-actor=1000", *FAKE], ["no node has the 1000 CPUs"]),
        (["--gpus-per-actor=64", *FAKE], ["64 GPUs", "--gpus-per-actor 0"]),
    ],
)
def test_backbones_that_cannot_be_had_are_one_line_before_any_image_is_read(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    photos: Path,
    tmp_path: Path,
    flags: list[str],
    words: list[str],
) -> None:
    def never(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the pipeline was started")

    monkeypatch.setattr("bottleneck.incremental.loop.run_stages", never)
    given = [flag.format(photos=photos) for flag in flags]
    if not any(flag.startswith("--weights=") for flag in given):
        given.append("--weights=random:0")
    base = [f"--images={photos}", f"--features={tmp_path / 'table'}", "--precision=float32"]
    code, out, err = in_process(capsys, *base, *given)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert not (tmp_path / "table").exists()


@pytest.mark.usefixtures("ray_session")
def test_weights_of_another_architecture_are_one_line(
    capsys: pytest.CaptureFixture[str], photos: Path, tmp_path: Path, shared: Path
) -> None:
    weights = shared / "weights/mobilenet_2_5_224_tf_no_top.h5"
    code, out, err = in_process(
        capsys,
        f"--images={photos}",
        f"--features={tmp_path / 'table'}",
        "--precision=float32",
        "--backbone=mobilenet",
        "--alpha=0.5",
        f"--weights={weights}",
    )
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert weights.name in err
    assert not (tmp_path / "table").exists()


@pytest.mark.usefixtures("ray_session")
def test_a_table_of_another_specification_is_one_line(
    capsys: pytest.CaptureFixture[str], photos: Path, tmp_path: Path
) -> None:
    flags = [f"--images={photos}", f"--features={tmp_path / 'table'}", *FAKE]
    assert in_process(capsys, *flags)[0] == 0
    before = sorted((tmp_path / "table").rglob("*"))
    draw(photos, numbered(3, start=9))
    for step in ([], ["--dry-run"]):
        code, out, err = in_process(
            capsys, *flags, "--resize=pad", "--preprocessing=rescale", *step
        )
        assert (code, out) == (2, "")
        assert err.startswith("error: the features table ")
        assert "resize: pad in this run, squash in the table" in err
        assert "preprocessing: rescale in this run, own in the table" in err
        assert "write to a new --features" in err
        assert err.count("\n") == 1
    assert sorted((tmp_path / "table").rglob("*")) == before


@pytest.mark.usefixtures("ray_session")
def test_everything_else_than_image_errors_is_done_before_the_exit_code_says_so(
    capsys: pytest.CaptureFixture[str], photos: Path, tmp_path: Path
) -> None:
    """A summary that cannot be written does not take back what was committed."""
    flags = [f"--images={photos}", f"--features={tmp_path / 'table'}", *FAKE]
    code, out, err = in_process(capsys, *flags, f"--summary={photos}/things")
    assert code == 2
    assert "things" in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("error: ")
    assert "Done (run " in out


# Exit codes, with a job that only says what happened


def outcome_of(
    capsys: pytest.CaptureFixture[str], job: Callable[[ExtractConfig], Summary], *flags: str
) -> tuple[int, str, str]:
    code = run_job(ExtractConfig, job, ["--images=i", "--features=f", *flags])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def told(**figures: Any) -> Callable[[ExtractConfig], Summary]:
    return lambda config: Summary(
        run="r", source_uri="i", table_uri="f", max_failed=config.max_failed, **figures
    )


@pytest.mark.parametrize(
    ("figures", "limit", "code"),
    [
        ({"computed": 100, "failed": {"empty": 10}}, "10%", 0),
        ({"computed": 100, "failed": {"empty": 6, "truncated": 5}}, "10%", 1),
        ({"computed": 100, "failed": {"empty": 1}}, "0", 1),
        ({"computed": 100, "failed": {}}, "0", 0),
        ({"computed": 100, "failed": {"empty": 100}}, "100%", 0),
        # Ten million others do not make a night good in which every new image failed.
        ({"listed": 10_000_000, "computed": 50, "failed": {"empty": 50}}, "10%", 1),
        ({"computed": 90, "failed": {"unavailable": 10}}, "10%", 0),
        ({"computed": 89, "failed": {"unavailable": 10}}, "10%", 1),
        (
            {"computed": 100, "failed": {"empty": 100}, "outcome": "interrupted", "signal": 2},
            "0",
            130,
        ),
        ({"outcome": "interrupted", "signal": 15}, "10%", 143),
    ],
)
def test_exit_codes(
    capsys: pytest.CaptureFixture[str], figures: dict[str, Any], limit: str, code: int
) -> None:
    got, out, err = outcome_of(capsys, told(**figures), f"--max-failed={limit}")
    assert got == code
    assert out.endswith("commit(s)\n")
    assert err.count("error: ") == (1 if code == 1 else 0)


def test_a_run_that_fails_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def job(config: ExtractConfig) -> Summary:
        raise RunFailedError("all is lost; run again")

    assert outcome_of(capsys, job) == (1, "", "error: all is lost; run again\n")


def test_a_keyboard_interrupt_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C before the job has set its own handlers, or in a step that sets none."""

    def job(config: ExtractConfig) -> Summary:
        raise KeyboardInterrupt

    code, out, err = outcome_of(capsys, job)
    assert (code, out) == (130, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_the_summary_is_written_whatever_the_exit_code(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "new folder" / "summary.json"
    job = told(listed=1, failed={"empty": 1})
    assert outcome_of(capsys, job, "--max-failed=0", f"--summary={file}")[0] == 1
    assert json.loads(file.read_text())["failed"] == {"empty": 1}
    shutil.rmtree(file.parent)
    job = told(outcome="interrupted", signal=15)
    assert outcome_of(capsys, job, f"--summary={file}")[0] == 143
    assert json.loads(file.read_text())["signal"] == 15


def test_the_summary_may_go_to_s3(capsys: pytest.CaptureFixture[str], s3: S3Server) -> None:
    s3.create_bucket("summaries")
    assert outcome_of(capsys, told(), "--summary=s3://summaries/a b/last.json")[0] == 0
    body = s3.client().get_object(Bucket="summaries", Key="a b/last.json")["Body"].read()
    assert json.loads(body)["run"] == "r"
