"""A dump: all commits of a store as a file of lines, which any store can import.

Each line is a JSON object. Its member `line` says what it is, and its last member, `checksum`, has the first 16
hexadecimal digits of the SHA-256 of the line's bytes without that member and without the line break.

- `header`: `format` ("eventsrc-dump"), `version` (1), `store` (the identity of the source), `time` (of the export).
- `commit`: each attribute of `Commit`. `id` is a UUID, `payload` and `command_digest` are in base64, as stored, and
  `position` is that in the source, or null.
- `damaged`: in place of a commit that cannot be read: `stream`, `version`, `position` and `error`.
- `end`: the number of `commits` and of `damaged` ones, and the `digest`, the SHA-256 of all bytes before this line.

The commits have the order of the source's feed. If it has none, each commit follows the earlier ones of its stream.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, BinaryIO, Literal
from uuid import UUID

import msgspec

from ..aggregates.codec import unpack
from ..concurrency import run_all
from ..errors import CommitOutcomeUnknown, CommitTooLarge, ConflictError, DumpDamaged, InvalidStreamId, StoredDataError
from ..store import Commit, Receipt, Store
from ..stores.feed import Feed, read_stored

MAX_PROBLEMS = 1_000
"""An import ends after so many problems, because the file is of another store."""

_FORMAT, _VERSION = "eventsrc-dump", 1
_MAX_LINE = 64_000_000  # bytes; the commits of a store are smaller than a hundredth
_READ = 1_000_000  # bytes of lines that are read at once
_WAVE = 64  # commits that are appended at once
_HEADS = 100_000  # streams whose last version in the target is remembered
_TRIES = 3  # of an append whose outcome is unknown
_CHECKSUM = re.compile(rb',"checksum":"([0-9a-f]{16})"\}\n?\Z')


class Header(msgspec.Struct, frozen=True, tag_field="line", tag="header", kw_only=True):
    format: Literal["eventsrc-dump"] = "eventsrc-dump"
    version: int = _VERSION
    store: str
    time: str


class DumpedCommit(msgspec.Struct, frozen=True, tag_field="line", tag="commit", kw_only=True):
    stream: str
    version: int
    id: UUID
    time: int  # µs since the epoch
    events: int
    tags: tuple[str, ...]
    correlation_id: str | None
    causation_ids: tuple[str, ...]
    command_id: str | None
    command_digest: bytes | None
    metadata: Mapping[str, str]
    position: int | None
    payload: bytes

    @classmethod
    def of(cls, commit: Commit) -> DumpedCommit:
        fields: dict[str, Any] = {name: getattr(commit, name) for name in cls.__struct_fields__}
        fields["id"] = commit.uuid
        return cls(**fields)

    def to_commit(self) -> Commit:
        """Return the commit, without a position, which the target gives."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__struct_fields__}
        fields.update(id=self.id.bytes, position=None)
        return Commit(**fields)


class DamagedCommit(msgspec.Struct, frozen=True, tag_field="line", tag="damaged", kw_only=True):
    stream: str
    version: int
    position: int | None
    error: str


class End(msgspec.Struct, frozen=True, tag_field="line", tag="end", kw_only=True):
    commits: int
    damaged: int
    digest: str


Line = Header | DumpedCommit | DamagedCommit | End

_decode: Callable[[bytes], Line] = msgspec.json.Decoder(Line).decode


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """What was exported. `problems` name the first damaged commits, at most MAX_PROBLEMS of them."""

    store: str
    commits: int
    damaged: int
    problems: tuple[str, ...]


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """What was imported, or would be.

    - `skipped` commits were there already, and are identical.
    - `refused` counts the commits that were not imported: damaged ones, conflicts, and those after them in a stream.
    - `problems` name the first of them in each stream, and why.
    - `positions_kept` is whether each appended commit has the position that it had in the source; None if the source or
      the target counts no positions, or if nothing was appended.
    """

    store: str  # the identity of the source
    appended: int
    skipped: int
    refused: int
    problems: tuple[str, ...]
    positions_kept: bool | None = None


async def export_commits(store: Store, file: BinaryIO) -> Exported:
    """Write all commits of a store to a file. Memory use is constant.

    A commit that cannot be read, or whose payload has a wrong checksum, is a line that says so. Commits that are stored
    in the meantime may be missing.

    Raises:
        TypeError: the store has no feed.
        StoreError: the store cannot be read to its end. The file has no end, so it cannot be imported.
        OSError: the file cannot be written.
    """
    if not isinstance(store, Feed):
        raise TypeError(f"{type(store).__name__} has no feed, so its commits cannot be exported")
    identity, commits, damaged = await store.identity(), 0, 0
    problems: list[str] = []
    digest = hashlib.sha256()

    async def write(lines: Sequence[bytes]) -> None:
        written = b"".join(lines)
        digest.update(written)
        await asyncio.to_thread(file.write, written)

    await write([_seal(Header(store=identity, time=datetime.now(UTC).isoformat(timespec="seconds")))])
    async with aclosing(read_stored(store)) as batches:
        async for batch in batches:
            found: list[tuple[int, bytes]] = []
            reports = [
                DamagedCommit(stream=each.stream, version=each.version, position=each.position, error=str(each.error))
                for each in batch.damaged
            ]
            for commit in batch.commits:
                if error := _explain_damage(commit):
                    stream, version = commit.stream, commit.version
                    reports.append(DamagedCommit(stream=stream, version=version, position=commit.position, error=error))
                else:
                    commits += 1
                    found.append((commit.position or 0, _seal(DumpedCommit.of(commit))))
            for report in reports:
                damaged += 1
                found.append((report.position or 0, _seal(report)))
                if len(problems) < MAX_PROBLEMS:
                    problems.append(f"{report.stream}@{report.version}: {report.error}")
            found.sort(key=lambda each: each[0])  # what is damaged is in its place
            await write([line for _, line in found])
    await write([_seal(End(commits=commits, damaged=damaged, digest=digest.hexdigest()))])
    await asyncio.to_thread(file.flush)
    return Exported(store=identity, commits=commits, damaged=damaged, problems=tuple(problems))


def _seal(line: Line) -> bytes:
    body = msgspec.json.encode(line)
    return body[:-1] + b',"checksum":"' + hashlib.sha256(body).hexdigest()[:16].encode() + b'"}\n'


def _explain_damage(commit: Commit) -> str:
    """Return why the payload of a commit cannot be what was stored; "" if it can."""
    try:
        unpack(commit.payload, commit.stream, commit.version)
    except StoredDataError as error:
        return error.reason
    return ""


async def read_dump(file: BinaryIO) -> AsyncGenerator[Header | DumpedCommit | DamagedCommit]:
    """Yield the header of a dump, and then what is in place of each commit. Memory use is constant.

    Raises DumpDamaged, with the number of the line: it is not a dump, or a line was altered, or it has no end, or lines
    are missing, or something follows the end. What was yielded before is as it was exported.
    """
    digest, number, commits, damaged = hashlib.sha256(), 0, 0, 0
    end = False
    while lines := await asyncio.to_thread(_read_lines, file):
        for text in lines:
            number += 1
            if end:
                raise DumpDamaged(number, "something follows the end")
            line = _open(text, number)
            if isinstance(line, Header) != (number == 1):
                raise DumpDamaged(number, "the header is missing, or is in the wrong place")
            if isinstance(line, End):
                end = True
                if (line.commits, line.damaged, line.digest) != (commits, damaged, digest.hexdigest()):
                    raise DumpDamaged(number, f"it has {commits:,} commits, not those {line.commits:,} of the export")
                continue
            digest.update(text)
            if isinstance(line, DumpedCommit):
                commits += 1
                if error := _explain_damage(line.to_commit()):
                    raise DumpDamaged(number, f"{line.stream}@{line.version}: {error}")
            elif isinstance(line, DamagedCommit):
                damaged += 1
            elif line.version != _VERSION:
                raise DumpDamaged(number, f"it has version {line.version} of the format; this can read {_VERSION}")
            yield line
    if not end:
        raise DumpDamaged(number + 1, f"the file ends after {commits:,} commits, and has no end line: it was cut off")


def _read_lines(file: BinaryIO) -> list[bytes]:
    lines: list[bytes] = []
    size = 0
    while size < _READ and (line := file.readline(_MAX_LINE)):
        lines.append(line)
        size += len(line)
    return lines


def _open(text: bytes, number: int) -> Line:
    found = _CHECKSUM.search(text[-64:])
    if found is None or not text.endswith(b"\n"):
        raise DumpDamaged(number, "it is not a line of a dump, or it was cut off")
    body = text[: len(text) - len(found[0])] + b"}"
    if hashlib.sha256(body).hexdigest()[:16].encode() != found[1]:
        raise DumpDamaged(number, "it has another checksum than at the export")
    try:
        return _decode(body)
    except (msgspec.MsgspecError, ValueError) as error:
        raise DumpDamaged(number, f"it is not a line of a dump: {error}") from None


async def import_commits(store: Store, file: BinaryIO, *, dry_run: bool = False) -> Imported:
    """Append the commits of a dump to a store, in their order. To resume an import that was interrupted, import again.

    - A commit that is there already, and is identical, is skipped. If another one has its version, that is a conflict:
      nothing is overwritten, and no later commit of its stream is imported.
    - A commit is only appended after the one before it in its stream. So after one that was damaged at the export,
      the rest of its stream is not imported. These are problems, and the other streams are imported.
    - A file that can be read twice is checked to its end before anything is appended. From a pipe, what comes before a
      damaged line is appended.
    - The target gives positions in the order of the file. They are equal to those of the source if the target was empty
      and counts positions, nothing was damaged, and the source has lost no positions to deleted streams: see
      `Imported.positions_kept`.
    - With `dry_run` nothing is appended. Memory then grows by the names of the streams; otherwise it is constant.

    Raises:
        DumpDamaged: the file is not a whole dump.
        StoreError: the store cannot be used. What was appended stays; import the file again.
    """
    if file.seekable():
        start = file.tell()
        async with aclosing(read_dump(file)) as lines:
            async for _ in lines:
                pass
        file.seek(start)
    target = _Target(store, dry_run=dry_run)
    identity = ""
    wave: dict[str, DumpedCommit] = {}  # by stream: no two of one stream
    async with aclosing(read_dump(file)) as lines:
        async for line in lines:
            if isinstance(line, Header):
                identity = line.store
                continue
            if isinstance(line, DamagedCommit):
                target.refuse(line, f"was damaged at the export: {line.error}")
                continue
            if line.stream in wave or len(wave) >= _WAVE:
                await target.put(list(wave.values()))
                wave = {}
            if len(target.problems) >= MAX_PROBLEMS:
                target.problems.append("there are too many problems: the rest of the file was not imported")
                break
            wave[line.stream] = line
    await target.put(list(wave.values()))
    return Imported(
        store=identity,
        appended=target.appended,
        skipped=target.skipped,
        refused=target.refused,
        problems=tuple(target.problems),
        positions_kept=target.positions_kept,
    )


class _Target:
    """The store that commits are imported into, and what became of them."""

    def __init__(self, store: Store, *, dry_run: bool) -> None:
        self._store, self._dry_run = store, dry_run
        self._heads: OrderedDict[str, int] = OrderedDict()  # the last versions of streams
        self._stopped: set[str] = set()  # streams with a problem
        self.appended = self.skipped = self.refused = 0
        self.problems: list[str] = []
        self.positions_kept: bool | None = None

    def refuse(self, line: DumpedCommit | DamagedCommit, reason: str) -> None:
        """Note why a commit is not imported."""
        self.refused += 1
        self.problems.append(f"{line.stream}@{line.version} {reason}")

    async def put(self, wave: Sequence[DumpedCommit]) -> None:
        """Append commits of distinct streams, at once, so that they share a transaction if the store has one."""
        due = [line for line in wave if await self._is_due(line)]
        if self._dry_run:
            self.appended += len(due)
        else:
            await run_all(map(self._append, due))  # each begins in its turn, which keeps their order

    async def _is_due(self, line: DumpedCommit) -> bool:
        """Whether a commit is to be appended. If it is not, note why."""
        stream, version = line.stream, line.version
        if stream in self._stopped:
            self.refused += 1
            return False
        head = self._heads.pop(stream, 0)
        try:
            if not head:
                head = await _read_head(self._store, stream)
            if version <= head:
                async with aclosing(self._store.read(stream, after=version - 1, until=version)) as commits:
                    self._compare(line, await anext(commits, None))
            elif version > head + 1:
                self._stop(line, f"does not follow the last version of its stream in the target, {head}")
        except InvalidStreamId as error:
            self._stop(line, f"cannot be stored: {error}")
        except StoredDataError as error:
            self._stop(line, f"cannot be compared with the target: {error}")
        if stream in self._stopped:
            return False
        self._heads[stream] = max(head, version)
        if len(self._heads) > _HEADS and not self._dry_run:
            self._heads.popitem(last=False)
        return version > head

    def _stop(self, line: DumpedCommit, reason: str) -> None:
        """Note a problem, after which nothing of the stream is imported."""
        self._stopped.add(line.stream)
        self.refuse(line, reason)

    def _compare(self, line: DumpedCommit, standing: Commit | None) -> None:
        """Note whether a commit in the target is the same one, or another one."""
        if standing is not None and msgspec.structs.replace(standing, position=None) == line.to_commit():
            self.skipped += 1
        else:
            self._stop(line, "is another commit in the target")

    async def _append(self, line: DumpedCommit) -> None:
        try:
            receipt = await _append_surely(self._store, line.to_commit())
        except ConflictError as error:  # something else writes to the target
            self._compare(line, error.winner)
        except (CommitTooLarge, ValueError) as error:
            self._stop(line, f"cannot be stored: {error}")
        else:
            self.appended += 1
            if receipt.position is not None and line.position is not None:
                self.positions_kept = self.positions_kept is not False and receipt.position == line.position


async def _append_surely(store: Store, commit: Commit) -> Receipt:
    """Append a commit, and again if the outcome is unknown: that is exact, too."""
    for _ in range(_TRIES - 1):
        try:
            return await store.append(commit)
        except CommitOutcomeUnknown:
            continue
    return await store.append(commit)


async def _read_head(store: Store, stream: str) -> int:
    """Return the last version of a stream; 0 if there is none."""
    async with aclosing(store.read(stream, backward=True)) as commits:
        last = await anext(commits, None)
    return last.version if last is not None else 0
