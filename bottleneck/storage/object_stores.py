"""Clients of S3, Google Cloud Storage and Azure, by obstore.

obstore is the Rust ``object_store`` library that delta-rs is built on, so one set of environment
variables (``AWS_*``, ``GOOGLE_*``, ``AZURE_*``) configures images and table alike. It was chosen
over s3fs because it needs one request per image and returns the ETag with the bytes. Measured on
2 cores against moto with 30 ms latency, 1,000 objects of 20 kB, 32 at a time: obstore 1,000
requests in 5.9 s, s3fs ``cat_file`` 2,000 in 18.6 s, s3fs's inner ``get_object`` 1,000 in 7.9 s,
a bare HTTP loop 5.5 s.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from bottleneck.console.redaction import has_password, one_line, redact_uri
from bottleneck.errors import SourceError
from bottleneck.storage.object_errors import ADVICE
from bottleneck.storage.uris import scheme_of

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_ENVIRONMENT = ("AWS_", "AZURE_", "GOOGLE_")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
#: Time after which botocore is asked for the credentials again. It decides when they are refreshed;
#: asking costs nothing while they are valid.
_CREDENTIALS_TTL = timedelta(minutes=5)

#: Maximum time for one image, however slowly its bytes come.
_IMAGE_TIME = timedelta(minutes=10)


@dataclass(frozen=True)
class StoreOptions:
    """Timeouts of a client.

    Attributes:
        timeout_s: Seconds without a byte after which a request is given up; a large file may take
            longer in all.
        retry_s: Seconds from an object's first request during which 5xx answers, throttling,
            broken connections and timeouts are retried, with exponential back-off and jitter.
        whole_files: Whether the client reads large files.
    """

    timeout_s: float = 30.0
    retry_s: float = 120.0
    whole_files: bool = False


_stores: dict[tuple[object, ...], ObjectStore] = {}
_stores_lock = threading.Lock()


def open_store(root: str, options: StoreOptions | None = None) -> ObjectStore:
    """Returns a client for one bucket or container, one per process, environment and options.

    Args:
        root: For example ``s3://bucket``, without a key.
        options: Timeouts and retries.

    Raises:
        SourceError: No credentials can be found, or the configuration is not allowed.
    """
    if problem := unsafe(root):
        raise SourceError(problem)
    options = options or StoreOptions()
    environment = tuple(sorted(kv for kv in os.environ.items() if kv[0].startswith(_ENVIRONMENT)))
    # The process id: a forked child must not use its parent's connections.
    key = (os.getpid(), root, options, environment)
    with _stores_lock:
        if key not in _stores:
            _stores[key] = _new_store(root, options)
        return _stores[key]


def unsafe(uri: str) -> str | None:
    """Returns why an object store must not be used: plain http without consent, or two endpoints.

    obstore and delta-rs refuse plain http themselves; pyarrow, which reads and writes shards, does
    not. Each of them is used only if this returns None.

    Returns:
        A message in one line, or None.
    """
    shown = redact_uri(uri)
    if has_password(uri):
        return (
            f"{shown} was given with a user name and a password, which addresses of tables and of "
            "object stores may not hold; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the "
            "AZURE_* or GOOGLE_* variables) instead"
        )
    if scheme_of(uri) != "s3":
        return None
    endpoints = [os.environ.get(name, "") for name in _ENDPOINTS]
    if os.environ.get("AWS_ENDPOINT") and not any(endpoints):
        return (
            f"{shown} cannot be used with AWS_ENDPOINT, which only some of the libraries know; set "
            "AWS_ENDPOINT_URL instead"
        )
    plain = any(endpoint.lower().startswith("http://") for endpoint in endpoints)
    if plain and not _is_true("AWS_ALLOW_HTTP"):
        return f"{shown} {ADVICE['plain_http']}"
    return None


def _new_store(root: str, options: StoreOptions) -> ObjectStore:
    from obstore.store import S3Store, from_url

    # Client options replace those from the environment, AWS_ALLOW_HTTP among them.
    timeout = timedelta(seconds=options.timeout_s)
    client: dict[str, Any] = {
        "allow_http": _is_true("AWS_ALLOW_HTTP"),
        "connect_timeout": min(timeout, timedelta(seconds=10)),
        "read_timeout": timeout,
        "timeout": timedelta(days=1) if options.whole_files else max(timeout, _IMAGE_TIME),
    }
    retry: dict[str, Any] = {
        # The limit is the time, not the count: 1,000 is out of reach.
        "max_retries": 1_000,
        "retry_timeout": timedelta(seconds=options.retry_s),
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=5),
            "base": 2,
        },
    }
    shared: dict[str, Any] = {"client_options": client, "retry_config": retry}
    try:
        if scheme_of(root) == "s3":
            return S3Store(root.split("://", 1)[1], **shared, **_s3_settings(root))
        return from_url(root, **shared)
    except SourceError:
        raise
    except Exception as e:
        raise SourceError(
            f"no client can be made for {redact_uri(root)}: {one_line(e, 'first')}; check the "
            "bucket's name and the AWS_*, GOOGLE_* or AZURE_* environment variables"
        ) from e


def _s3_settings(root: str) -> dict[str, Any]:
    """Returns settings that only botocore knows: profiles, SSO, roles, instance metadata."""
    settings: dict[str, Any] = {}
    has_region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    has_keys = bool(os.environ.get("AWS_ACCESS_KEY_ID")) or _is_true("AWS_SKIP_SIGNATURE")
    if has_region and has_keys:
        return settings
    import botocore.session  # type: ignore[import-untyped]

    session = botocore.session.get_session()
    if not has_region and (region := session.get_config_variable("region")):
        settings["region"] = region
    if not has_keys:
        credentials = session.get_credentials()
        if credentials is None:
            raise SourceError(
                f"no AWS credentials for {redact_uri(root)}: AWS_ACCESS_KEY_ID is not set and no "
                "profile, role or instance metadata gives any; set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY or AWS_PROFILE, or AWS_SKIP_SIGNATURE=true for a public "
                "bucket"
            )
        settings["credential_provider"] = _BotoCredentials(credentials)
    return settings


class _BotoCredentials:
    """obstore's credential provider over botocore's chain, refreshed by botocore."""

    def __init__(self, credentials: Any) -> None:
        self._credentials = credentials

    def __call__(self) -> Any:
        frozen = self._credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + _CREDENTIALS_TTL,
        }


def _is_true(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() in {"1", "true", "yes", "on"}
