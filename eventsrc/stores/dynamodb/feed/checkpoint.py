"""Checkpoints of a table's feed: a scan and how far it is, or the table's stream and how far its shards are."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from math import inf
from time import time

import msgspec

from ....errors import FeedTrimmed
from .lineage import Cursor, order
from .scan import parse_places

RETENTION = 24 * 3600  # seconds for which a stream keeps a record
MARGIN = 3600  # seconds; clocks differ, and who begins late must still come in time
TURNING_ON = 60  # seconds that it may take until a new stream tells all


class Checkpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of several cursors each may be the one that is behind."""

    stream: str  # its ARN: a table whose stream is turned off and on has another one. Empty: see `from_moment`
    since: int  # seconds since the epoch; what has not been told was stored later
    cursors: list[Cursor]
    scan: str | None = None  # the checkpoint of a scan that comes first; None when it is over

    def text(self) -> str:
        return msgspec.json.encode(self).decode()

    def on(self, stream: str) -> Checkpoint:
        """The same on the stream that the table has now. Raises FeedTrimmed if that misses what comes behind it."""
        if self.stream == stream:
            return self
        if self.stream or _turned_on(stream) + TURNING_ON > self.since:
            raise FeedTrimmed("the table has a new stream: what was stored before it is not in it")
        return msgspec.structs.replace(self, stream=stream)


def from_moment(moment: datetime) -> str:
    """The checkpoint behind all that was stored before that moment, wherever that has been read: the whole of a stream
    that was on by then.
    """
    return Checkpoint("", int(moment.timestamp()), [Cursor()]).text()


def _turned_on(stream: str) -> float:
    """When it was, in seconds since the epoch; its ARN ends with that."""
    try:
        return datetime.fromisoformat(stream.rpartition("/")[2]).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return inf


def check_age(since: float) -> None:
    """Raise FeedTrimmed if a stream may have lost some of what was stored since then."""
    if time() - since > RETENTION - MARGIN:
        raise FeedTrimmed("DynamoDB keeps changes for 24 hours, and the feed is about as far behind")


def parse_checkpoint(text: str) -> Checkpoint:
    """Raises ValueError for what is no checkpoint."""
    try:
        checkpoint = msgspec.json.decode(text, type=Checkpoint)
        if checkpoint.scan:
            parse_places(checkpoint.scan)
        for sequence in {sequence for cursor in checkpoint.cursors for sequence in cursor.at.values()}:
            order(sequence)
        if checkpoint.cursors:
            return checkpoint
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    raise ValueError(f"{text!r} is no checkpoint of a table's feed; keep what its batches say, or begin with ''")


def find_earliest(texts: Iterable[str]) -> str:
    """As `Feed.earliest`. Streams that are not the same have no common place but the beginning."""
    texts = list(texts)
    found = [parse_checkpoint(text) for text in texts if text]
    if len(found) < len(texts) or len({each.stream for each in found}) != 1:
        return ""
    scans = {each.scan for each in found if each.scan is not None}
    cursors: list[Cursor] = []
    for cursor in (cursor for each in found for cursor in each.cursors):
        _add(cursors, cursor)
    return Checkpoint(
        found[0].stream,
        min(each.since for each in found),
        cursors,
        min(scans) if len(scans) == 1 else "" if scans else None,  # keys of a scan are in no order that we know
    ).text()


def _add(cursors: list[Cursor], cursor: Cursor) -> None:
    """One for each set of shards, with the earliest place in each."""
    for number, other in enumerate(cursors):
        if other.at.keys() == cursor.at.keys() and {*other.done} == {*cursor.done}:
            at = {id: min(place, cursor.at[id], key=order) for id, place in other.at.items()}
            cursors[number] = Cursor(at, other.done)
            return
    cursors.append(cursor)
