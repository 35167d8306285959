"""What this package uses of Keras although Keras's documentation does not promise it.

Nobody else imports ``keras.src``, so that this is the page to read before Keras is upgraded.
Everything here was verified with Keras 3.15.1.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

_PATCH_LOCK = threading.RLock()


@contextlib.contextmanager
def keras_requests(answer: Callable[..., str]) -> Iterator[None]:
    """Lets ``answer(fname, origin, ...)`` say where a file is that Keras asks for, in the block.

    The constructors of ``keras.applications`` alone know which file holds their ImageNet weights,
    and download it with ``keras.src.utils.file_utils.get_file``, without a lock, a timeout or a
    way to pass another downloader. One thread at a time.

    Args:
        answer: Takes the arguments of ``keras.utils.get_file`` and returns the path of the file.
    """
    from keras.src.utils import file_utils

    with _PATCH_LOCK:
        original = file_utils.get_file
        file_utils.get_file = answer
        try:
            yield
        finally:
            file_utils.get_file = original


def imagenet_class_index_url() -> str:
    """Returns the address of ImageNet's class names, which Keras keeps to itself.

    ``keras.applications.imagenet_utils`` offers ``decode_predictions``, which gives the names of a
    prediction's best classes only.
    """
    from keras.src.applications import imagenet_utils

    url: str = imagenet_utils.CLASS_INDEX_PATH
    return url
