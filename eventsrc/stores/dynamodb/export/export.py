"""Exports of a table to S3 as a feed: the whole event store at a moment, at no cost to the table.

What is read here: `manifest.py` checks what an export says of itself, `files.py` gets its files, `lines.py` reads and
checks them, and `sorting.py` brings their commits into order.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from itertools import pairwise
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from ....errors import StoreClosed
from ...feed import Batch, Head
from ..feed.checkpoint import checkpoint_at
from ..store import DynamoDBStore
from .data_file import FileLines, reader_of
from .files import Bucket, Files, Folder, open_s3, read_parts
from .manifest import Manifest, name_of, read_manifest

if TYPE_CHECKING:
    from .sorting import Place, Sorted


class Export:
    """An export of the store's table to S3, or a full one and the incremental ones after it, as an ordered feed.

    Each of `folders` is an export's own, with its `manifest-summary.json`: `s3://bucket/prefix/AWSDynamoDB/0169...`, or
    where a copy of it lies. The store gives key names, tenant, and, unless they are given, session and region; it
    need not be open.

    `async with export:` reads all of it, compares it with its manifests, and sorts it by stream and version, in a
    temporary file, with flat memory: nothing is told before all was found to be whole. With `sorted` that file is kept,
    and the next time it is used instead of the export. It raises StoreRejected if something is missing, not finished,
    or of a kind that is not read, CorruptPayload if something is damaged, StoreUnavailable if S3 does not answer, and
    ValueError if the exports do not follow each other.
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
            raise ValueError("name the folder of an export, the one with manifest-summary.json")
        self._items = store.items
        self._folders = [fspath(folder) for folder in folders]
        for folder in self._folders:
            if folder.startswith("s3:") and not re.match("s3://[^/]+/+[^/]", folder):
                raise ValueError(f"{folder!r} is none of an export; it is s3://bucket/prefix/AWSDynamoDB/id")
        self._session = session or store.table.connection.session
        self._region_name = region_name or store.table.connection.region_name
        self._endpoint_url, self._plain_http = endpoint_url, plain_http
        self._path = None if sorted is None else Path(sorted)
        self._manifests: Sequence[Manifest] = ()
        self._sorted: Sorted | None = None

    async def open(self) -> None:
        if self._sorted is not None:
            raise StoreClosed("the export is open already; open it once, and share it")
        async with AsyncExitStack() as stack:
            async with AsyncExitStack() as s3:
                opened = await self._files(s3)
                self._manifests = [await read_manifest(files) for files in opened]
                _check_order(self._manifests)
                from .sorting import Sorted  # here: it imports sqlite3

                commits = Sorted(self._path, self._about())
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
        """The moment of which the export is: it has what was acknowledged before. Of several, the last one's."""
        self._commits()
        return self._manifests[-1].end

    @property
    def checkpoint(self) -> str:
        """Where `DynamoDBStore.feed` goes on behind this export: with the table's stream, as far back as that goes.

        Take it once all is told, and keep what the processors know of the streams: what comes twice they drop. The feed
        raises FeedTrimmed if the export is of about a day ago, or if the table's stream was turned on after it.
        """
        return checkpoint_at(self.time)

    async def feed(self, *, after: str = "", follow: bool = True) -> AsyncGenerator[Batch]:
        """As `Feed.feed`, stream by stream; it ends at the export's end, with `follow` as well.

        A checkpoint holds for the same exports, in any place, of the same tenant.
        """
        place, caught_up = self._place(after), False
        while not caught_up:
            commits, caught_up = await self._commits().page(place)
            if commits:
                place = commits[-1].stream, commits[-1].version
            yield Batch(commits, self._text(place), caught_up)

    async def end(self) -> str:
        return self._text(await self._commits().end())

    def earliest(self, checkpoints: Iterable[str]) -> str:
        places = [self._place(each) for each in checkpoints]
        first = min(places, key=lambda place: (place[0].encode(), place[1]), default=("", 0))
        return self._text(first) if first[0] else ""

    async def remaining(self, after: str) -> int:
        return await self._commits().remaining(self._place(after))

    async def heads(self) -> AsyncGenerator[Sequence[Head]]:
        after = ""
        while heads := await self._commits().heads(after):
            yield heads
            after = heads[-1].stream

    async def _files(self, stack: AsyncExitStack) -> list[Files]:
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

    async def _read(self, opened: Sequence[Files], commits: Sorted) -> None:
        read = reader_of(self._items)
        for number, (files, manifest) in enumerate(zip(opened, self._manifests, strict=True)):
            for file in manifest.files:
                lines = FileLines(file, read)
                async for part in read_parts(files, name_of(file, manifest.id)):
                    await commits.add(lines.feed(part), number)
                await commits.add(lines.end(), number)
        await commits.sort()

    def _commits(self) -> Sorted:
        if self._sorted is None:
            raise StoreClosed("the export is not open; use `async with export:` around all that uses it")
        return self._sorted

    def _ids(self) -> str:
        return "+".join(manifest.id for manifest in self._manifests)

    def _about(self) -> str:
        """What the sorted commits are of."""
        return msgspec.json.encode(
            [self._ids(), self._items.partition_key, self._items.sort_key, self._items.prefix]
        ).decode()

    def _text(self, place: Place) -> str:
        return f"{self._ids()}:{place[0]}@{place[1]}"

    def _place(self, checkpoint: str) -> Place:
        """Raises ValueError."""
        self._commits()
        if not checkpoint:
            return "", 0
        ids, _, place = checkpoint.partition(":")
        stream, at, version = place.rpartition("@")
        if ids != self._ids() or not at or not re.fullmatch("[0-9]{1,18}", version):
            raise ValueError(
                f"{checkpoint!r} is no checkpoint of this export; keep what its batches say, or begin with ''"
            )
        return stream, int(version)


def _check_order(manifests: Sequence[Manifest]) -> None:
    """Raise ValueError unless each has what follows the one before."""
    for before, after in pairwise(manifests):
        if after.begin is None:
            raise ValueError(f"{after.id} is a full export; it comes first, and needs none before it")
        if after.table != before.table:
            raise ValueError(f"{after.id} is of the table {after.table}, {before.id} of {before.table}")
        if not after.begin <= before.end <= after.end:
            raise ValueError(f"{after.id} is from {after.begin} to {after.end}, and {before.id} ends at {before.end}")
