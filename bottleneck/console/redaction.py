"""Redaction of secrets in printed and stored text: passwords, signatures, tokens."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import unquote

from bottleneck.errors import BottleneckError

# user:password@ in any URI, in chains such as simplecache::https://… too; a lone user name only in
# http(s), where tokens are passed that way: abfss://container@account is no secret. A password may
# hold @, or a slash, ? or # that should have been percent-encoded: no port is then after the colon.
_USER_AND_PASSWORD = re.compile(
    r"([A-Za-z][\w+.-]*://)"
    r"(?:[^/?#\s]*:[^/?#\s]*|(?!\[)[^/@:?#\s]*:(?!\d+(?:[/?#'\",;)\s]|$))[^@\s]*)@"
)
_HTTP_USER = re.compile(r"(https?://)[^/?#\s]*@", re.IGNORECASE)
_SECRET_PARAMETER = re.compile(
    r"^(x-amz-|x-goog-|x-ms-)|signature|^sig$|token|credential|secret|passw|passphrase|^pw$|^pwd$"
    r"|api_?key|access_?key|account_?key|^key$|^auth|bearer|hmac|jwt|^sess",
    re.IGNORECASE,
)
_PARAMETER = re.compile(r"(?P<before>[?&#;])(?P<name>[^?&#;=]*)(?:=[^?&#;]*)?")
_PARAMETER_IN_TEXT = re.compile(r"[?&]([^?&=\s]+)=[^&\s'\"<>|`]*")
_URI_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>|`]+")

_COLOR = re.compile(r"\x1b\[[0-9;]*m")

#: Maximum characters of a library's message in a message of ours, and of its end among them.
_LINE_CHARS = 300
_END_CHARS = 200


def redact_uri(uri: str) -> str:
    """Returns a URI that may be printed and stored, without passwords, signatures, tokens."""
    return without_parameters(without_user(uri)) if "://" in uri else uri


def redact_text(text: str) -> str:
    """Returns a message, such as a library's, with every URI in it redacted.

    Parameters that hold secrets are also taken out of paths without scheme and host.
    """
    text = _URI_IN_TEXT.sub(lambda found: redact_uri(found[0]), without_user(text))
    return _PARAMETER_IN_TEXT.sub(
        lambda found: "" if _SECRET_PARAMETER.search(unquote(found[1])) else found[0], text
    )


def has_password(uri: str) -> bool:
    """Returns whether the URI holds ``user:password@``."""
    return _USER_AND_PASSWORD.search(uri) is not None


def without_user(text: str) -> str:
    """Returns a text without the user names and passwords of the URIs in it."""
    return _HTTP_USER.sub(r"\1", _USER_AND_PASSWORD.sub(r"\1", text))


def without_parameters(uri: str) -> str:
    """Returns a URI without those parameters that hold secrets."""
    end = re.search(r"[?#]", uri)
    if end is None:
        return uri
    path, rest = uri[: end.start()], uri[end.start() :]
    kept = [
        found
        for found in _PARAMETER.finditer(rest)
        if not _SECRET_PARAMETER.search(unquote(found["name"]))
    ]
    if len(kept) == len(_PARAMETER.findall(rest)):
        return uri
    return path + "".join(
        (found["before"] if place or found["before"] == "#" else rest[0]) + found[0][1:]
        for place, found in enumerate(kept)
    )


def one_line(
    error: BaseException | str,
    part: Literal["whole", "ends", "first", "last"] = "whole",
    *,
    kind: bool = False,
) -> str:
    """Returns an exception's message as one redacted line.

    Args:
        error: The exception, or a library's message.
        part: ``whole`` joins all lines; ``ends`` does so too and leaves out the middle of a long
            message, where it starts with what happened and ends with why. ``first`` takes the first
            line, where details for developers follow; ``last`` the last one, where a traceback
            comes before it.
        kind: Whether to put the exception's class before its message, unless the exception is
            one of ours, whose message is complete.

    Returns:
        At most 300 characters; the name of the exception's class where there is no message.
    """
    lines = [line for line in _COLOR.sub("", str(error)).splitlines() if line.strip()]
    if part in ("first", "last"):
        lines = lines[:1] if part == "first" else lines[-1:]
    text = redact_text(" ".join(" ".join(lines).split()))
    if isinstance(error, BaseException) and (not text or kind):
        name = type(error).__name__
        if not text:
            text = name
        elif not isinstance(error, BottleneckError):
            text = f"{name}: {text}"
    if len(text) <= _LINE_CHARS or part != "ends":
        return text[:_LINE_CHARS]
    return f"{text[: _LINE_CHARS - _END_CHARS - 3]} … {text[-_END_CHARS:]}"
