"""URIs of images, list files, weights and tables: normal form and joining.

An object's key is everything after the bucket, taken literally: ``#``, ``?``, ``%`` and ``+`` are
ordinary characters of a key, so object-store URIs are never percent-decoded or cut at a query.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from urllib.parse import unquote

from bottleneck.console.redaction import redact_uri, without_parameters, without_user

#: Scheme of a URI.
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_ALIASES = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "azure": "az"}
_OBJECT_SCHEMES = frozenset({"s3", "gs", "az", "abfs", "abfss"})


def scheme_of(uri: str) -> str:
    """Returns the URI's scheme in lower case, aliases resolved; ``"file"`` for plain paths."""
    match = _SCHEME.match(uri)
    if match is None:
        return "file"
    scheme = match.group(1).lower()
    return _ALIASES.get(scheme, scheme)


def is_local(uri: str) -> bool:
    """Returns whether the URI is a path on this machine (plain, or ``file://``)."""
    return scheme_of(uri) == "file"


def is_object_store(uri: str) -> bool:
    """Returns whether the URI is in S3, Google Cloud Storage or Azure Blob Storage."""
    return scheme_of(uri) in _OBJECT_SCHEMES


def local_path(uri: str) -> Path:
    """Returns the absolute local path of a plain path or ``file://`` URI.

    A ``file://`` URI is percent-decoded, as ``Path.as_uri`` encodes it, unless a file of the
    undecoded name exists.
    """
    if not is_local(uri):
        raise ValueError(f"not a local URI: {redact_uri(uri)}")
    path = uri
    if _SCHEME.match(uri):
        path = uri.split("://", 1)[1]
        path = "/" + path.removeprefix("localhost").lstrip("/")
        # lexists asks the file system once, and only for names with a percent sign.
        if "%" in path and not os.path.lexists(path):
            path = unquote(path)
    return Path(os.path.abspath(os.path.expanduser(path)))  # noqa: PTH100, PTH111


def normalize_uri(uri: str | os.PathLike[str]) -> str:
    """Returns the one form in which a URI is compared, joined and stored.

    Local paths become absolute plain paths (symlinks kept); others keep their scheme, with
    ``s3a``, ``gcs`` and ``azure`` spelled ``s3``, ``gs`` and ``az``, and lose a trailing slash.
    """
    text = os.fspath(uri)
    if "::" in text.split("/", 1)[0]:
        return text.rstrip("/")
    if is_local(text):
        return str(local_path(text))
    rest = text.split("://", 1)[1]
    return f"{scheme_of(text)}://{rest.rstrip('/')}"


def join_uri(base: str, *parts: str) -> str:
    """Returns ``base`` and relative ``parts``, joined by single slashes."""
    joined = base.rstrip("/") or "/"
    for part in parts:
        joined = joined.rstrip("/") + "/" + part.strip("/")
    return joined


def resolve_uri(folder: str, uri: str) -> str:
    """Returns ``uri`` if it is absolute, else its place in ``folder``; ``..`` is resolved.

    Args:
        folder: Normalized URI of a folder or prefix.
        uri: Absolute path, URI with a scheme, or a path relative to ``folder``.
    """
    if _SCHEME.match(uri) or uri.startswith("/") or "::" in uri:
        return normalize_uri(uri)
    match = _SCHEME.match(folder)
    if match is None:
        return normalize_uri(posixpath.join(folder, uri))
    root, _, path = folder[match.end() :].partition("/")
    path = posixpath.normpath(posixpath.join("/", path, uri)).lstrip("/")
    return f"{folder[: match.end()]}{root}/{path}"


def split_object_uri(uri: str) -> tuple[str, str]:
    """Splits ``s3://bucket/a/b.jpg`` into ``s3://bucket`` and ``a/b.jpg``, empty for a root."""
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    return f"{scheme}://{bucket}", key


def identity_of(written: str, uri: str) -> str:
    """Returns the identity of an image that a list gives only by URI.

    Signatures and passwords are not part of it: the table would hold them, and each new signature
    would make another image. A key in an object store has no query.

    Args:
        written: URI as in the list, which may be relative.
        uri: The same URI, normalized.
    """
    named = without_user(written)
    return named if is_local(uri) or is_object_store(uri) else without_parameters(named)
