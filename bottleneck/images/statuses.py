"""The statuses that an image can end with: what a table's ``status`` column holds."""

from __future__ import annotations

from typing import Final

#: The image was decoded; its row has features or a prediction. All other rows have none.
OK: Final = "ok"

#: The source lists the image, but there is no such file or object. From fetching.
MISSING: Final = "missing"

#: The file has zero bytes.
EMPTY: Final = "empty"

#: The bytes have no signature of an image format: HTML, text, a video, …
NOT_AN_IMAGE: Final = "not_an_image"

#: An image, but damaged, or of a format or variant that is not decoded here.
UNREADABLE: Final = "unreadable"

#: An image whose bytes end before its first picture is complete.
TRUNCATED: Final = "truncated"

#: The file is above ``--max-image-mb``, or the header states more than ``max_pixels`` or a side
#: above ``max_side``; it was not read or not decoded.
TOO_LARGE: Final = "too_large"

#: The image exists, but could not be read (permission, time-out, 5xx). From fetching. Such images
#: have no row, so that the next run tries them again.
UNAVAILABLE: Final = "unavailable"

#: Every status, ``ok`` first.
STATUSES = (
    OK,
    MISSING,
    EMPTY,
    NOT_AN_IMAGE,
    UNREADABLE,
    TRUNCATED,
    TOO_LARGE,
    UNAVAILABLE,
)
