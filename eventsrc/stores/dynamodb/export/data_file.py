"""Reading the data files of an export."""

from __future__ import annotations

import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from hashlib import md5
from typing import Any, NamedTuple

import msgspec

from ....errors import CorruptPayload
from ....store import Commit
from ..items import Items
from .manifest import DataFile

_PIECE = 1024 * 1024  # bytes expanded at once
_MAX_LINE = 8 * 1024 * 1024  # bytes; an item has up to 400 KB, and base64 and escapes make its line longer


class Row(NamedTuple):
    """A commit of an export; None instead of it if it was removed, or why it cannot be read."""

    stream: str
    version: int
    commit: Commit | str | None


def make_line_reader(items: Items) -> Callable[[bytes], Row | None]:
    """Return a function that reads a line. It returns None for a line without a commit of this tenant.

    A line of a full export has `Item`. A line of an incremental export has `Keys`, and `NewImage` unless the item was
    removed. The function raises CorruptPayload for other lines.
    """
    optional: Any = items.stored | None
    fields = [(name, optional, None) for name in ("Item", "NewImage", "Keys")]
    decoder: Any = msgspec.json.Decoder(msgspec.defstruct("Line", fields, gc=False))

    def read(line: bytes) -> Row | None:
        try:
            content = decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise CorruptPayload("", 0, "the line is not an item of this library") from None
        item = content.Item or content.NewImage
        if (keyed := item or content.Keys) is None:
            raise CorruptPayload("", 0, "the line has no item")
        if (key := items.read_commit_key(keyed)) is None:
            return None
        try:
            return Row(*key, items.to_commit(item, key[0]) if item is not None else None)
        except CorruptPayload as error:
            return Row(*key, error.reason)

    return read


class DataFileParser:
    """A parser of one data file. Pass all bytes to `feed`, then call `end`, which checks that the file is complete.

    The expanded file is never in memory as a whole. Both methods return rows, and raise CorruptPayload if the file is
    damaged or differs from the manifest.
    """

    def __init__(self, file: DataFile, read: Callable[[bytes], Row | None]) -> None:
        self._file, self._read = file, read
        self._md5 = md5(usedforsecurity=False)
        self._gzip: Any = zlib.decompressobj(wbits=31)
        self._has_data = False  # a file without items may be empty
        self._rest = b""  # the start of a line that is not complete
        self._count = 0

    def feed(self, data: bytes) -> Iterator[Row]:
        self._md5.update(data)
        self._has_data = self._has_data or bool(data)
        while data:
            if self._gzip.eof:  # a file may consist of several gzip streams
                self._gzip = zlib.decompressobj(wbits=31)
            try:
                piece = self._gzip.decompress(data, _PIECE)
            except zlib.error:
                raise self._damaged("is not a gzip file, or is damaged") from None
            data = self._gzip.unused_data if self._gzip.eof else self._gzip.unconsumed_tail
            *lines, self._rest = (self._rest + piece).split(b"\n")
            if len(self._rest) > _MAX_LINE:
                raise self._damaged("has a line longer than any item")
            yield from self._rows(lines)

    def end(self) -> Iterator[Row]:
        if b64encode(self._md5.digest()).decode() != self._file.md5:
            raise self._damaged("has a checksum that differs from the manifest")
        if self._has_data and not self._gzip.eof:
            raise self._damaged("ends too early")
        yield from self._rows([self._rest])
        if self._count < self._file.items:
            raise self._damaged(
                f"has {self._count:,} items instead of {self._file.items:,}, the number in the manifest"
            )

    def _rows(self, lines: list[bytes]) -> Iterator[Row]:
        for line in lines:
            if line and not line.isspace():
                self._count += 1
                if self._count > self._file.items:  # raised at once: a few bytes may expand without end
                    raise self._damaged(f"has more than {self._file.items:,} items, the number in the manifest")
                try:
                    row = self._read(line)
                except CorruptPayload as error:
                    where = f"{error.reason}: item {self._count:,} of {self._file.key}"
                    raise CorruptPayload(error.stream, error.version, where) from None
                if row is not None:
                    yield row

    def _damaged(self, how: str) -> CorruptPayload:
        return CorruptPayload("", 0, f"{self._file.key} {how}; copy the export again")
