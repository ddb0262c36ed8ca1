"""Checkpoints of a table's feed: the progress of a scan, and of each shard of the table's stream."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from math import inf
from time import time

import msgspec

from ....errors import FeedTrimmed
from .lineage import Cursor, to_number
from .scan import parse_scan_checkpoint

RETENTION = 24 * 3600  # seconds for which a stream keeps a record
MARGIN = 3600  # seconds before the end of the retention: clocks differ, and reading takes time
END_MARGIN = 120  # seconds before the end: times of records are rounded down, to minutes at most, and clocks differ
ENABLE_DELAY = 60  # seconds that may pass until a new stream records all changes


class Checkpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """A point in a table's feed. If there are several cursors, each shard is read from the earliest one."""

    stream: str  # its ARN, which changes when the stream is turned off and on; empty: see `checkpoint_at`
    since: int  # seconds since the epoch; commits that were not delivered yet were stored later
    cursors: list[Cursor]
    scan: str | None = None  # the checkpoint of the scan that comes first; None after the scan
    begin: int = 0  # seconds since the epoch by the service's clock: older records are not delivered

    def text(self) -> str:
        return msgspec.json.encode(self).decode()

    def for_stream(self, stream: str) -> Checkpoint:
        """Return this checkpoint for the stream that the table has now.

        Raises FeedTrimmed if later changes may be missing from that stream.
        """
        if self.stream == stream:
            return self
        if self.stream or _enabled_since(stream) + ENABLE_DELAY > self.since:
            raise FeedTrimmed("the table has a new stream, without the changes made before it was turned on")
        return msgspec.structs.replace(self, stream=stream)


def checkpoint_at(moment: datetime) -> str:
    """Return a checkpoint for a reader that has all commits stored before `moment` from another source.

    It starts at the beginning of the table's stream, which must have been turned on before that moment.
    """
    return Checkpoint("", int(moment.timestamp()), [Cursor()]).text()


def _enabled_since(stream: str) -> float:
    """Return when the stream was turned on, in seconds since the epoch. Its ARN ends with that time."""
    try:
        return datetime.fromisoformat(stream.rpartition("/")[2]).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return inf


def check_age(since: float) -> None:
    """Raise FeedTrimmed if the stream may have dropped changes made since then (seconds since the epoch)."""
    if time() - since > RETENTION - MARGIN:
        raise FeedTrimmed(
            "DynamoDB keeps changes for 24 hours, and the feed has read changes only up to about that age"
        )


def parse_checkpoint(text: str) -> Checkpoint:
    """Return the checkpoint. Raises ValueError if the text is not one."""
    try:
        checkpoint = msgspec.json.decode(text, type=Checkpoint)
        if checkpoint.scan:
            parse_scan_checkpoint(checkpoint.scan)
        for sequence in {sequence for cursor in checkpoint.cursors for sequence in cursor.at.values()}:
            to_number(sequence)
        if checkpoint.cursors:
            return checkpoint
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    raise ValueError(
        f"{text!r} is not a checkpoint of a table's feed; use the checkpoint of a batch, or '' for the beginning"
    )


def find_earliest(checkpoints: Iterable[str]) -> str:
    """Return the earliest checkpoint, as `Feed.earliest`: the beginning if they are of different streams."""
    texts = list(checkpoints)
    found = [parse_checkpoint(text) for text in texts if text]
    if len(found) < len(texts) or len({each.stream for each in found}) != 1:
        return ""
    scans = {each.scan for each in found if each.scan is not None}
    cursors: list[Cursor] = []
    for cursor in (cursor for each in found for cursor in each.cursors):
        _merge(cursors, cursor)
    return Checkpoint(
        found[0].stream,
        min(each.since for each in found),
        cursors,
        min(scans) if len(scans) == 1 else "" if scans else None,  # the order of a scan's keys is not known
        min(each.begin for each in found),
    ).text()


async def count_remaining(after: str) -> int | None:
    """Return None, because counting would take a scan. Raises ValueError if `after` is not a checkpoint."""
    if after:
        parse_checkpoint(after)
    return None


async def find_age(after: str) -> float | None:
    """Return how old a checkpoint is, in seconds: later commits may not have been delivered. None within a scan."""
    checkpoint = parse_checkpoint(after) if after else None
    if checkpoint is None or checkpoint.scan is not None:
        return None
    return max(0.0, time() - checkpoint.since)


def _merge(cursors: list[Cursor], cursor: Cursor) -> None:
    """Add a cursor, or merge it with one of the same shards: keep the earlier sequence number of each shard."""
    for number, other in enumerate(cursors):
        if other.at.keys() == cursor.at.keys() and {*other.done} == {*cursor.done}:
            at = {id: min(sequence, cursor.at[id], key=to_number) for id, sequence in other.at.items()}
            cursors[number] = Cursor(at, other.done)
            return
    cursors.append(cursor)
