"""Reading many small objects from S3: requests per image and images/s, by client.

Run it as .venv/bin/python -m benchmarks.fetch. The S3 server is moto behind the proxy of
`benchmarks.support.s3_server`, which counts requests and answers each one later by `delay_ms`, in a
process of its own. All clients read the same objects with the same number of requests in flight, in
turns.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import tyro

from benchmarks.support.images import small_photos
from benchmarks.support.results import CommonSettings, Result
from benchmarks.support.s3_server import S3Server
from bottleneck.sources.listing import list_images
from bottleneck.storage.fetcher import Fetcher, FetchRequest

_BUCKET = "photos"

Client = Callable[[Sequence[str], int], list[bytes]]


@dataclass(frozen=True, kw_only=True)
class Settings(CommonSettings):
    """Measures requests and speed of clients that read objects from S3.

    Attributes:
        images: Objects, small photos.
        concurrency: Requests in flight.
        delay_ms: Added to each answer.
        repeat: Turns of each client; the median counts.
    """

    images: int = 1000
    concurrency: int = 32
    delay_ms: float = 30.0
    repeat: int = 3


def main(settings: Settings) -> None:
    count = 16 if settings.smoke else settings.images
    repeat = 1 if settings.smoke else settings.repeat
    delay_s = 0.001 if settings.smoke else settings.delay_ms / 1000
    what, photos = small_photos(count)
    objects = {f"{number % 2}/{number:06d}.jpg": data for number, data in enumerate(photos)}
    result = Result("fetch", settings.to_json())
    pipe, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, delay_s))
    server.start()
    theirs.close()
    try:
        os.environ.update(_ask(pipe, objects))
        listing = _measured(pipe, lambda: list_images(f"s3://{_BUCKET}/").images.num_rows)
        seconds: dict[str, list[float]] = {name: [] for name in _CLIENTS}
        requests: dict[str, int] = {}
        for _ in range(repeat):
            for name, client in _CLIENTS.items():
                took, requests[name], answers = _measured(
                    pipe, lambda read=client: read(list(objects), settings.concurrency)
                )
                if answers != photos:
                    raise SystemExit(f"{name} did not read what was stored")
                seconds[name].append(took)
    finally:
        pipe.close()
        server.join(20)
        if server.is_alive():
            server.kill()
    table = result.table(
        f"{count} {what} from S3, {1000 * delay_s:g} ms per request, "
        f"{settings.concurrency} in flight"
    )
    for name, taken in seconds.items():
        table.add(
            client=name,
            requests_per_image=round(requests[name] / count, 2),
            seconds=round(statistics.median(taken), 2),
            images_per_s=round(count / statistics.median(taken)),
        )
    listed = result.table("Listing the same objects (bottleneck.sources.listing.list_images)")
    listed.add(objects=listing[2], requests=listing[1], seconds=round(listing[0], 2))
    ours = requests["ours (bottleneck.storage.fetcher.Fetcher)"] / count
    result.target("requests per image, ours", ours, 1.0, at_most=True)
    result.finish(settings.results)


def _serve(pipe: Connection, delay_s: float) -> None:
    """Runs the S3 server until the other end closes; answers with its environment or counts."""
    with S3Server() as s3:
        s3.create_bucket(_BUCKET, pipe.recv())
        pipe.send(s3.env)
        while True:
            try:
                pipe.recv()
            except EOFError:
                return
            pipe.send(len(s3.requests()))
            s3.reset()
            s3.delay_s = delay_s


def _ask(pipe: Any, question: Any) -> Any:
    pipe.send(question)
    return pipe.recv()


def _measured(pipe: Any, call: Callable[[], Any]) -> tuple[float, int, Any]:
    """Returns seconds, requests and the call's result."""
    _ask(pipe, "reset")
    began = time.perf_counter()
    answer = call()
    seconds = time.perf_counter() - began
    return seconds, _ask(pipe, "count"), answer


def _ours(keys: Sequence[str], concurrency: int) -> list[bytes]:
    fetcher = Fetcher(concurrency=concurrency)
    try:
        answers = fetcher.fetch([FetchRequest(f"s3://{_BUCKET}/{key}") for key in keys])
    finally:
        fetcher.close()
    return [answer.data or b"" for answer in answers]


def _s3fs(keys: Sequence[str], concurrency: int) -> list[bytes]:
    import s3fs

    filesystem = s3fs.S3FileSystem(skip_instance_cache=True)
    paths = [f"{_BUCKET}/{key}" for key in keys]
    contents = filesystem.cat(paths, batch_size=concurrency)
    return [contents[path] for path in paths]


def _boto3(keys: Sequence[str], concurrency: int) -> list[bytes]:
    import boto3
    from botocore.config import Config

    client = boto3.client("s3", config=Config(max_pool_connections=concurrency))

    def read(key: str) -> bytes:
        data: bytes = client.get_object(Bucket=_BUCKET, Key=key)["Body"].read()
        return data

    with ThreadPoolExecutor(concurrency) as pool:
        return list(pool.map(read, keys))


_CLIENTS: dict[str, Client] = {
    "ours (bottleneck.storage.fetcher.Fetcher)": _ours,
    "s3fs cat": _s3fs,
    "boto3 get_object in threads": _boto3,
}


if __name__ == "__main__":
    main(tyro.cli(Settings))
