"""Meaning of obstore's errors, and what a user can do about each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from bottleneck.console.redaction import one_line, redact_uri
from bottleneck.errors import SourceError

#: Kinds of errors, by what helps.
Kind = Literal[
    "missing",
    "missing_bucket",
    "credentials",
    "denied",
    "region",
    "plain_http",
    "bad_name",
    "range",
    "transient",
    "other",
]

#: Message for each kind, which follows the address.
ADVICE: dict[Kind, str] = {
    "missing": "does not exist ({detail}); check the path",
    "missing_bucket": "is in a bucket that does not exist ({detail}); check the bucket's name and "
    "AWS_ENDPOINT_URL",
    "credentials": "refused the credentials ({detail}); check AWS_ACCESS_KEY_ID, "
    "AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN or AWS_PROFILE",
    "denied": "may not be accessed with these credentials ({detail}); they need permission to "
    "list the bucket and get its objects",
    "region": "is in a bucket of another region ({detail}); set AWS_REGION to the bucket's region",
    "plain_http": "is behind an endpoint without TLS; set AWS_ALLOW_HTTP=true if that is meant, or "
    "use https in AWS_ENDPOINT_URL",
    "bad_name": "holds a key that cannot be addressed ({detail}); keys with an empty part (//), "
    "with . or .. as a part or with control characters must be renamed",
    "range": "is shorter than expected ({detail}); it changed while it was read: run again",
    "transient": "did not answer ({detail}); check AWS_ENDPOINT_URL and the network, and run again",
    "other": "cannot be used ({detail})",
}

_BAD_CREDENTIALS = frozenset(
    {
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidSecurity",
        "InvalidToken",
        "RequestExpired",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    }
)
_THROTTLED = frozenset({"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded"})
_STATUS = re.compile(r"status code: (\d{3})(?: ([A-Za-z ]+))?")
_CODE = re.compile(r"<Code>([^<]{1,80})</Code>")
_RETRIES = re.compile(r"after (\d+) retries")


@dataclass(frozen=True)
class Problem:
    """Meaning of an object store's exception.

    Attributes:
        kind: Kind of the error; ``transient`` and ``credentials`` may pass by themselves.
        detail: Short line without URL or secret, for example ``HTTP 503 SlowDown``.
    """

    kind: Kind
    detail: str


def explain(error: BaseException) -> Problem:
    """Returns the meaning of an obstore exception for the object that was asked for."""
    text = str(error)
    status_match, code_match = _STATUS.search(text), _CODE.search(text)
    status = int(status_match.group(1)) if status_match else None
    code = code_match.group(1) if code_match else ""
    reason = code or (status_match.group(2) or "" if status_match else "")
    detail = f"HTTP {status} {reason}".strip() if status else one_line(error, "first")
    if retried := _RETRIES.search(text):
        detail = f"{detail} after {retried.group(1)} retries"
    if kind := _kind_of_answer(status, code):
        return Problem(kind, detail)
    if isinstance(error, FileNotFoundError):
        return Problem("missing", detail if status else "not found")
    if type(error).__name__ == "InvalidPathError" or isinstance(error, ValueError):
        return Problem("bad_name", one_line(error, "first"))
    return _no_answer(text, detail)


def _no_answer(text: str, detail: str) -> Problem:
    """Returns the meaning of a failure without an HTTP status."""
    if "BadScheme" in text:
        return Problem("plain_http", "the endpoint is plain http")
    if "Received redirect without LOCATION" in text:
        return Problem("region", "the bucket is in another region")
    if "HTTP error" not in text and "kind: Timeout" not in text:
        return Problem("other", detail)
    cause = re.search(r"kind: (Timeout|Connect)", text)
    words = {"Timeout": "timed out", "Connect": "connection failed"}
    what = words.get(cause.group(1) if cause else "", "connection broken")
    retried = _RETRIES.search(text)
    return Problem("transient", f"{what} after {retried.group(1) if retried else 0} retries")


def _kind_of_answer(status: int | None, code: str) -> Kind | None:
    if status is None:
        return None
    if code in _BAD_CREDENTIALS or status == 401:
        return "credentials"
    if code in _THROTTLED or status >= 500 or status in {408, 425, 429}:
        return "transient"
    if code in {"NoSuchBucket", "ContainerNotFound"}:
        return "missing_bucket"
    if code in {"PermanentRedirect", "IllegalLocationConstraintException"}:
        return "region"
    kinds: dict[int, Kind] = {403: "denied", 404: "missing", 416: "range"}
    return kinds.get(status, "other")


def source_error(uri: str, error: BaseException) -> SourceError:
    """Returns the error for a ``uri`` that cannot be used as a whole, to ``raise … from``."""
    problem = explain(error)
    return SourceError(f"{redact_uri(uri)} {ADVICE[problem.kind].format(detail=problem.detail)}")
