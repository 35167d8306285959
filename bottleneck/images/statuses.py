"""The statuses that an image can end with."""

from __future__ import annotations

STATUSES = (
    "ok",  # decoded
    "missing",  # fetching: the source lists it, but there is no such file or object
    "empty",  # zero bytes
    "not_an_image",  # no signature of an image format: HTML, text, a video, …
    "unreadable",  # an image, but damaged, or of a format or variant that is not decoded here
    "truncated",  # an image whose bytes end before its first picture is complete
    "too_large",  # above ``max_pixels`` or ``max_side``, judged from the header alone
    "unavailable",  # fetching: it exists, but could not be read (permission, time-out, 5xx)
)
"""What an image can end with. ``missing`` and ``unavailable`` come from fetching, not decoding."""

#: Images of this status have no row, so that the next run tries them again: storage could not
#: deliver them.
UNAVAILABLE = "unavailable"
