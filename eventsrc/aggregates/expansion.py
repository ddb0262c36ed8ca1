"""Expand compressed bodies, never beyond a limit, whatever the blocks claim."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

import lz4.block

from ..errors import CorruptPayload, PayloadTooLarge

MAX_EXPANDED = 16 * 1024 * 1024
"""The largest expanded body, in bytes. Larger ones are refused on writes, and on reads before they are expanded."""

_MAX_RATIO = 255  # of lz4


def expand(block: bytes, stream: str, version: int) -> bytes:
    """Return the body of an lz4 block. Raises CorruptPayload, and PayloadTooLarge before it is expanded."""
    if (size := _read_size(block)) > MAX_EXPANDED:
        raise PayloadTooLarge(stream, version, size, MAX_EXPANDED)
    try:
        body: bytes = lz4.block.decompress(block)
    except (lz4.block.LZ4BlockError, ValueError):
        raise CorruptPayload(stream, version, "the lz4 block is damaged; restore from a backup") from None
    return body


def may_expand_beyond(size: int) -> bool:
    """Return whether blocks of this size together could expand to more than MAX_EXPANDED bytes."""
    return size > MAX_EXPANDED // _MAX_RATIO


def count_fitting(blocks: Iterable[bytes]) -> int:
    """Return how many of the first blocks expand to at most MAX_EXPANDED bytes together, at least 1.

    - Of a block, the first four bytes are enough. An empty one stands for a body that is not compressed.
    - A block that `expand` refuses takes nothing.
    """
    sizes = (size if size <= MAX_EXPANDED else 0 for size in map(_read_size, blocks))
    return max(1, sum(total <= MAX_EXPANDED for total in accumulate(sizes)))


def _read_size(block: bytes) -> int:
    return int.from_bytes(block[:4], "little")
