"""Secrets taken out of what is printed: passwords, signatures, tokens."""

from __future__ import annotations

import re
from urllib.parse import unquote

from bottleneck.errors import SourceError

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


def redact_uri(uri: str) -> str:
    """The URI as it may be printed or stored: no ``user:password@``, no signature, no token."""
    return _without_parameters(_without_user(uri)) if "://" in uri else uri


def redact_text(text: str) -> str:
    """A message, such as a library's, with every URI in it as :func:`redact_uri` leaves it.

    Parameters that hold secrets are also taken out of paths without scheme and host.
    """
    text = _URI_IN_TEXT.sub(lambda found: redact_uri(found[0]), _without_user(text))
    return _PARAMETER_IN_TEXT.sub(
        lambda found: "" if _SECRET_PARAMETER.search(unquote(found[1])) else found[0], text
    )


def has_password(uri: str) -> bool:
    """Whether the URI holds ``user:password@``."""
    return _USER_AND_PASSWORD.search(uri) is not None


def _without_user(text: str) -> str:
    return _HTTP_USER.sub(r"\1", _USER_AND_PASSWORD.sub(r"\1", text))


def _without_parameters(uri: str) -> str:
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


def one_line(error: BaseException, limit: int = 300) -> str:
    """An exception's message in one line of at most ``limit`` characters, with its kind."""
    text = redact_text(" ".join(str(error).split()))
    if isinstance(error, SourceError):
        return text
    return f"{type(error).__name__}: {text}"[:limit] if text else type(error).__name__
