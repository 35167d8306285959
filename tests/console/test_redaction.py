"""A library's exception as one line within a message of ours."""

from __future__ import annotations

import pytest

from bottleneck.console.redaction import one_line
from bottleneck.errors import SourceError

_RAY = '\x1b[36mray::task()\x1b[39m (pid=7)\n  File "x.py", line 1\nValueError: no  such\tlayer\n\n'


@pytest.mark.parametrize(
    ("part", "line"),
    [
        ("ends", 'ray::task() (pid=7) File "x.py", line 1 ValueError: no such layer'),
        ("whole", 'ray::task() (pid=7) File "x.py", line 1 ValueError: no such layer'),
        ("first", "ray::task() (pid=7)"),
        ("last", "ValueError: no such layer"),
    ],
)
def test_the_part_that_is_asked_for_without_colors_and_gaps(part, line) -> None:
    assert one_line(RuntimeError(_RAY), part) == line
    assert one_line(_RAY, part) == line


def test_the_class_stands_before_messages_that_are_not_ours() -> None:
    assert one_line(KeyError("block1"), kind=True) == "KeyError: 'block1'"
    assert one_line(KeyError("block1")) == "'block1'"
    assert one_line(SourceError("a.h5 does not exist; check the path"), kind=True) == (
        "a.h5 does not exist; check the path"
    )


@pytest.mark.parametrize("part", ["whole", "first", "last"])
@pytest.mark.parametrize("kind", [True, False])
@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_exception_without_a_message_is_its_class(text: str, part, kind: bool) -> None:
    assert one_line(TimeoutError(text), part, kind=kind) == "TimeoutError"


def test_secrets_are_taken_out_before_the_line_is_cut() -> None:
    uri = "https://me:word@lake/a.h5?X-Amz-Signature=abc&versionId=3"
    assert one_line(OSError(f"cannot read {uri}\nat all")) == (
        "cannot read https://lake/a.h5?versionId=3 at all"
    )
    # Cut before, the parameter's name would be gone and part of its value would stay.
    long = f"{'a' * 90} https://lake/a.h5?sig={'s' * 400} {'z' * 190}"
    assert one_line(OSError(long), "ends") == f"{'a' * 90} https://lake/a.h5 {'z' * 190}"


@pytest.mark.parametrize("part", ["whole", "first", "last", "ends"])
def test_a_long_line_is_cut_after_300_characters(part) -> None:
    assert one_line(ValueError("x" * 300), part) == "x" * 300
    line = one_line(ValueError("what " + "x" * 400 + " why"), part, kind=True)
    if part == "ends":
        assert line == "ValueError: what " + "x" * 80 + " … " + "x" * 196 + " why"
    else:
        assert line == "ValueError: what " + "x" * 283
    assert len(line) == 300
