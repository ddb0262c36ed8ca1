"""Exports of a table to S3 as a feed: the whole event store at one moment, without requests to the table.

`manifest.py` reads and checks the manifests of an export, `files.py` reads its files, `data_file.py` parses and checks
them, and `sorting.py` sorts their commits.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from itertools import pairwise
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from ....errors import StoreClosed
from ....store import Commit
from ...feed import Batch, Damaged, Head, select
from ..feed.checkpoint import checkpoint_at
from ..items import Items
from ..store import DynamoDBStore
from .data_file import DataFileParser, make_line_reader
from .files import Bucket, Files, Folder, open_s3, read_parts
from .manifest import Manifest, read_manifest, relative_name

if TYPE_CHECKING:
    from .sorting import CommitKey, SortedCommits


class Export:
    """An ordered feed of an export of the store's table to S3, or of a full export and the incremental ones after it.

    - Each of `folders` is the folder of one export, with its `manifest-summary.json`:
      `s3://bucket/prefix/AWSDynamoDB/0169...`, or a local copy of it.
    - The store provides the key names and the tenant, and the session and the region unless you pass them. It need not
      be open.
    - `async with export:` reads all files, compares them with the manifests, and sorts the commits by stream and
      version in a temporary file. Memory stays flat. The feed delivers commits only after everything was checked.
    - With `sorted`, the sorted file is kept at that path. The next time it is used instead of the export.

    `async with export:` raises:
        StoreRejected: a file is missing, or the export is not finished or has an unsupported format.
        CorruptPayload: a file is damaged.
        StoreUnavailable: S3 does not respond.
        ValueError: the exports do not follow each other, or the file at `sorted` is of other exports.
    """

    ordered = True

    def __init__(
        self,
        store: DynamoDBStore,
        *folders: str | PathLike[str],
        session: Any = None,
        region_name: str | None = None,
        endpoint_url: str | None = None,
        plain_http: bool = False,
        sorted: str | PathLike[str] | None = None,
    ) -> None:
        if not folders:
            raise ValueError("pass the folder of an export, which has its manifest-summary.json")
        self._store, self._items = store, store.items
        self._folders = [fspath(folder) for folder in folders]
        for folder in self._folders:
            if folder.startswith("s3:") and not re.match("s3://[^/]+/+[^/]", folder):
                raise ValueError(f"{folder!r} is not the folder of an export; pass s3://bucket/prefix/AWSDynamoDB/id")
        self._session = session or store.table.connection.session
        self._region_name = region_name or store.table.connection.region_name
        self._endpoint_url, self._plain_http = endpoint_url, plain_http
        self._path = None if sorted is None else Path(sorted)
        self._manifests: Sequence[Manifest] = ()
        self._sorted: SortedCommits | None = None

    async def open(self) -> None:
        """Read, check and sort the exports. `async with` calls it."""
        if self._sorted is not None:
            raise StoreClosed("the export is open already; open it once, and share it")
        async with AsyncExitStack() as stack:
            async with AsyncExitStack() as s3:
                opened = await self._open_files(s3)
                self._manifests = [await read_manifest(files) for files in opened]
                _check_order(self._manifests)
                from .sorting import SortedCommits  # imported here, because it imports sqlite3

                commits = SortedCommits(self._path, _describe_source(self._ids(), self._items))
                stack.push_async_callback(commits.aclose)
                await commits.open()
                if not commits.complete:
                    await self._read(opened, commits)
            stack.pop_all()
        self._sorted = commits

    async def aclose(self) -> None:
        commits, self._sorted = self._sorted, None
        if commits is not None:
            await commits.aclose()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    @property
    def time(self) -> datetime:
        """The moment of the last export: it has the commits that were acknowledged before."""
        self._commits()
        return self._manifests[-1].end

    @property
    def checkpoint(self) -> str:
        """The checkpoint from which `DynamoDBStore.feed` continues after this export.

        - Use it after the export was delivered completely.
        - That feed starts at the beginning of the table's stream, so it repeats commits. Processors drop them if they
          keep the positions that they reached in the export.
        - That feed raises FeedTrimmed if the export is about a day old, or if the stream was turned on after it.
        """
        return checkpoint_at(self.time)

    async def identity(self) -> str:
        """Return the identity of the store, which must be open, as `Feed.identity`."""
        return await self._store.identity()

    async def clock(self) -> int:
        """Return the time by the clock of the store, which must be open, as `Feed.clock`."""
        return await self._store.clock()

    async def feed(
        self, *, after: str = "", follow: bool = True, report_damaged: bool = False, categories: Collection[str] = ()
    ) -> AsyncGenerator[Batch]:
        """Iterate over all commits, as `Feed.feed`, one stream after the other. `follow` has no effect.

        A checkpoint is valid for the same exports, wherever they are stored, and the same tenant.
        """
        last, caught_up = self._parse_checkpoint(after), False
        while not caught_up:
            rows, caught_up = await self._commits().page(last)
            damaged = tuple([row for row in rows if isinstance(row, Damaged)])
            batch = select(Batch([row for row in rows if isinstance(row, Commit)], "", caught_up, damaged), categories)
            if batch.damaged and not report_damaged:
                before = [row for row in rows[: rows.index(batch.damaged[0])] if isinstance(row, Commit)]
                if commits := select(Batch(before, "", caught_up=False), categories).commits:
                    yield Batch(commits, _to_checkpoint(self._ids(), (commits[-1].stream, commits[-1].version)), False)
                raise batch.damaged[0].error
            if rows:
                last = rows[-1].stream, rows[-1].version
            yield batch._replace(checkpoint=_to_checkpoint(self._ids(), last))

    async def end(self) -> str:
        return _to_checkpoint(self._ids(), await self._commits().end())

    def earliest(self, checkpoints: Iterable[str]) -> str:
        keys = [self._parse_checkpoint(each) for each in checkpoints]
        first = min(keys, key=lambda key: (key[0].encode(), key[1]), default=("", 0))
        return _to_checkpoint(self._ids(), first) if first[0] else ""

    async def behind(self, after: str) -> float | None:
        """Return None, because the commits of an export are in no order of time."""
        return None

    async def remaining(self, after: str) -> int:
        return await self._commits().remaining(self._parse_checkpoint(after))

    async def heads(self) -> AsyncGenerator[Sequence[Head]]:
        after = ""
        while heads := await self._commits().heads(after):
            yield heads
            after = heads[-1].stream

    async def _open_files(self, stack: AsyncExitStack) -> list[Files]:
        if not any(folder.startswith("s3://") for folder in self._folders):
            return [Folder(folder) for folder in self._folders]
        client = await open_s3(
            stack,
            session=self._session,
            region_name=self._region_name,
            endpoint_url=self._endpoint_url,
            plain_http=self._plain_http,
        )
        return [Bucket(folder, client) if folder.startswith("s3://") else Folder(folder) for folder in self._folders]

    async def _read(self, opened: Sequence[Files], commits: SortedCommits) -> None:
        read = make_line_reader(self._items)
        for number, (files, manifest) in enumerate(zip(opened, self._manifests, strict=True)):
            for file in manifest.files:
                parser = DataFileParser(file, read)
                async for part in read_parts(files, relative_name(file, manifest.id)):
                    await commits.add(parser.feed(part), number)
                await commits.add(parser.end(), number)
        await commits.sort()

    def _commits(self) -> SortedCommits:
        if self._sorted is None:
            raise StoreClosed("the export is not open; use `async with export:` around all that uses it")
        return self._sorted

    def _ids(self) -> str:
        return "+".join(manifest.id for manifest in self._manifests)

    def _parse_checkpoint(self, checkpoint: str) -> CommitKey:
        """Raises ValueError if the text is not a checkpoint of these exports."""
        self._commits()
        if not checkpoint:
            return "", 0
        ids, _, key = checkpoint.partition(":")
        stream, at, version = key.rpartition("@")
        if ids != self._ids() or not at or not re.fullmatch("[0-9]{1,18}", version):
            raise ValueError(
                f"{checkpoint!r} is not a checkpoint of this export; use that of a batch, or '' for the beginning"
            )
        return stream, int(version)


def _to_checkpoint(ids: str, key: CommitKey) -> str:
    return f"{ids}:{key[0]}@{key[1]}"


def _describe_source(ids: str, items: Items) -> str:
    """Return a text that identifies the exports and the settings with which they were read."""
    return msgspec.json.encode([ids, items.partition_key, items.sort_key, items.prefix]).decode()


def _check_order(manifests: Sequence[Manifest]) -> None:
    """Raise ValueError unless each export starts where the one before ends, or earlier."""
    for before, after in pairwise(manifests):
        if after.begin is None:
            raise ValueError(f"{after.id} is a full export; pass it first, without others before it")
        if after.table != before.table:
            raise ValueError(f"{after.id} is of table {after.table}, but {before.id} is of {before.table}")
        if not after.begin <= before.end <= after.end:
            raise ValueError(f"{after.id} is from {after.begin} to {after.end}, but {before.id} ends at {before.end}")
