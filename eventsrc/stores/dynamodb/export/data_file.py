"""The lines of an export's data files."""

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
_LONGEST = 8 * 1024 * 1024  # of a line: an item has 400 KB, and base64 and escapes make it longer


class Row(NamedTuple):
    """What an export says of a commit: where it stands, and None if it was removed."""

    stream: str
    version: int
    commit: Commit | None


def reader_of(items: Items) -> Callable[[bytes], Row | None]:
    """Reads a line: None if it is about no commit of this tenant. Raises CorruptPayload.

    A full export has `Item`, an incremental one `Keys`, and `NewImage` unless it was removed.
    """
    optional: Any = items.keyed | None
    fields = [(name, optional, None) for name in ("Item", "NewImage", "Keys")]
    decoder: Any = msgspec.json.Decoder(msgspec.defstruct("Line", fields, gc=False))

    def read(line: bytes) -> Row | None:
        try:
            told = decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise CorruptPayload("", 0, "a line that is no item of this library") from None
        image = told.Item or told.NewImage
        if (key := image or told.Keys) is None:
            raise CorruptPayload("", 0, "a line without an item")
        if (place := items.read_commit_key(key)) is None:
            return None
        return Row(*place, items.to_commit(image, place[0]) if image is not None else None)

    return read


class FileLines:
    """The lines of one file: `feed` it all of its bytes, and then say `end`, which tells whether it was whole.

    What it expands to is never in memory as a whole. Raises CorruptPayload.
    """

    def __init__(self, file: DataFile, read: Callable[[bytes], Row | None]) -> None:
        self._file, self._read = file, read
        self._md5 = md5(usedforsecurity=False)
        self._gzip: Any = zlib.decompressobj(wbits=31)
        self._begun = False  # a file without items may have no bytes at all
        self._rest = b""  # of a line
        self._count = 0

    def feed(self, data: bytes) -> Iterator[Row]:
        self._md5.update(data)
        self._begun = self._begun or bool(data)
        while data:
            if self._gzip.eof:  # a file may be several, one after the other
                self._gzip = zlib.decompressobj(wbits=31)
            try:
                piece = self._gzip.decompress(data, _PIECE)
            except zlib.error:
                raise self._damaged("is no gzip, or damaged") from None
            data = self._gzip.unused_data if self._gzip.eof else self._gzip.unconsumed_tail
            *lines, self._rest = (self._rest + piece).split(b"\n")
            if len(self._rest) > _LONGEST:
                raise self._damaged("has a line that is longer than any item")
            yield from self._rows(lines)

    def end(self) -> Iterator[Row]:
        if b64encode(self._md5.digest()).decode() != self._file.md5:
            raise self._damaged("has another checksum than the manifest says")
        if self._begun and not self._gzip.eof:
            raise self._damaged("ends too early")
        yield from self._rows([self._rest])
        if self._count < self._file.items:
            raise self._damaged(f"has {self._count:,} items, but the manifest says {self._file.items:,}")

    def _rows(self, lines: list[bytes]) -> Iterator[Row]:
        for line in lines:
            if line and not line.isspace():
                self._count += 1
                if self._count > self._file.items:  # said at once: what little bytes expand to may be without end
                    raise self._damaged(f"has more than {self._file.items:,} items, which the manifest says")
                try:
                    row = self._read(line)
                except CorruptPayload as error:
                    where = f"{error.reason}: item {self._count:,} of {self._file.key}"
                    raise CorruptPayload(error.stream, error.version, where) from None
                if row is not None:
                    yield row

    def _damaged(self, how: str) -> CorruptPayload:
        return CorruptPayload("", 0, f"{self._file.key} {how}; copy the export again")
