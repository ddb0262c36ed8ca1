"""Server-Sent Events, parsed from the bytes of a response as they arrive."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Block(NamedTuple):
    """What came up to an empty line. A field that was not sent is None."""

    id: str | None = None
    event: str | None = None
    data: bytes | None = None
    retry: int | None = None  # milliseconds


class TooLong(Exception):
    """A block has more bytes than are allowed."""


class Parser:
    """Parses a stream. A block that is not finished at the end of the stream does not count, as the standard says.

    `max_bytes` is the length that a block may have. No more than that is kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._unfinished: list[bytes] = []  # parts of a line
        self._lines: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[Block]:
        """Yield the blocks that a chunk completes. Raises TooLong, and ValueError for text that is not UTF-8."""
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            self._unfinished.append(line)
            whole = b"".join(self._unfinished).removesuffix(b"\r")
            self._unfinished = []
            if whole:
                self._grow(len(line))
                self._lines.append(whole)
            else:
                block, self._lines, self._size = _parse_block(self._lines), [], 0
                if block != Block():  # not only comments
                    yield block
        if rest:
            self._grow(len(rest))
            self._unfinished.append(rest)

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > self._max_bytes:
            raise TooLong


def _parse_block(lines: list[bytes]) -> Block:
    block, data = Block(), list[bytes]()
    for line in lines:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"data":
                data.append(value)
            case b"id" if b"\0" not in value:
                block = block._replace(id=value.decode())
            case b"event":
                block = block._replace(event=value.decode())
            case b"retry" if value.isdigit() and len(value) < 10:
                block = block._replace(retry=int(value))
            case _:  # a comment, or a field of a later standard
                pass
    return block._replace(data=b"\n".join(data)) if data else block
