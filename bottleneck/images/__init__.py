"""Encoded image bytes to pixels, and the statuses an image can end with."""
