"""Outbound: published events as CloudEvents in queues, topics, buses and streams of AWS."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from ..aggregates.declaration import collect_upcasters
from ..aggregates.event import Upcaster, tag_of
from ..concurrency import load_all
from ..errors import MessageTooLarge, StoreError
from ..processing.projections.projection import Failure, Guarantee, Projection
from ..processing.slice import Fence, HandlerFailed, PositionMoved, Slice
from ..publishing.catalogue import Catalogue, PublishedEvent
from ..retrying import TRANSIENT
from ..store import Commit
from ..stream_id import category_of
from .delivery import Delivery
from .sinks.sink import Message, Sink

_AT_ONCE = 32  # positions that are written at a time


class Outbound(Projection, tag="outbound"):
    """Sends the published events of a store to a sink, for a processor to run like any other projection.

    ```python
    class ToBilling(Outbound, tag="to-billing"):
        pass

    sink = SQSSink(client, "https://sqs.eu-west-1.amazonaws.com/1/billing.fifo")
    await Processor(ToBilling(sink, published, source="/ledger"), store, checkpoints).run()
    ```

    - Each event is sent at least once, as the CloudEvent that `events_api` would serve, with the same id each time. The
      position is written after the sink has taken it.
    - Messages of several streams are sent in batches. A sink that keeps an order gets the events of a stream one after
      the other; what it did not take of a batch is sent again, before later ones of the stream.
    - A sink that throttles or does not answer is waited for. An event that is too large or refused parks its stream
      after the processor's `attempts`.
    - `published`, `source`, `upcasters` and `tracing` are those of `events_api`. A stream that is hidden
      (`hide_stream`) is not named to the sink either: its order is kept within a commit.

    Raises:
        DeclarationError: the events cannot be published as declared.
    """

    guarantee = Guarantee.KEY
    has_handlers = False
    in_batches = True

    def __init__(
        self,
        sink: Sink,
        published: Iterable[PublishedEvent[Any]],
        *,
        source: str,
        upcasters: Sequence[Upcaster] = (),
        tracing: bool = False,
    ) -> None:
        events = list(published)
        self._sink = sink
        self._catalogue = Catalogue(events, upcasters, source, tracing=tracing)
        old = collect_upcasters(upcasters, type(self).__qualname__)
        self._tags = frozenset(map(tag_of, [*(each.event for each in events), *old]))

    def wants(self, commit: Commit) -> bool:
        """Whether the commit is of one of the `categories`, and has a published event."""
        if self.categories and category_of(commit.stream) not in self.categories:
            return False
        return not self._tags.isdisjoint(commit.tags)

    async def reset(self, stream: str, fence: Fence) -> None:
        """Raise TypeError: messages cannot be taken back."""
        raise TypeError(f"{type(self).__qualname__} cannot take back what it has sent; send a correction instead")

    async def apply(self, runs: Sequence[Slice]) -> Sequence[Failure]:
        """Send the events of these slices, and move the positions after those that were taken.

        Raises:
            Throttled, StoreUnavailable: the sink did not take all; the positions say what it took.
            Fenced, StoreError: positions could not be written.
        """
        confirms = {run.fence.slot: run.confirm for run in runs}
        delivery = Delivery(self._sink, self._handler_timeout, _join(confirms.values()))
        drafts = [self._draft(run, delivery) for run in runs]
        outage: StoreError | None = None
        try:
            await delivery.send_all()
        except TRANSIENT as error:
            outage = error
        failures = await self._advance(drafts, delivery)
        if outage is not None:
            raise outage
        return failures

    def _draft(self, run: Slice, delivery: Delivery) -> Draft:
        """Add the messages of a slice to a delivery, up to a commit that cannot be sent."""
        ends: list[int] = []
        count = 0
        for commit in () if run.muted else run.commits:
            try:
                messages = list(self._make_messages(commit)) if self.wants(commit) else []
            except Exception as error:  # noqa: BLE001  # `data` may raise anything
                return Draft(run, ends, error)
            for message in messages:
                delivery.add(message)
            ends.append(count := count + len(messages))
        return Draft(run, ends if not run.muted else [0] * len(run.commits), None)

    def _make_messages(self, commit: Commit) -> Iterable[Message]:
        """Yield the messages of a commit. Raises MessageTooLarge, and as `Catalogue.encode`."""
        for _, type, body in self._catalogue.encode(commit):
            head = _read_head(body)
            group = commit.stream if head.subject is not None else head.id.partition(".")[0]
            message = Message(commit.stream, group, head.id, head.source, type, body)
            if (size := self._sink.size_of(message)) > self._sink.max_bytes:
                raise MessageTooLarge(head.id, size, self._sink.max_bytes)
            yield message

    async def _advance(self, drafts: Sequence[Draft], delivery: Delivery) -> Sequence[Failure]:
        """Write the positions after what was taken. Return the slices that cannot be sent to their end."""
        by_stream = {draft.run.stream: draft for draft in drafts}

        async def advance(stream: str) -> Failure | None:
            draft = by_stream[stream]
            run, taken = draft.run, delivery.taken(stream)
            done = sum(end <= taken for end in draft.ends)
            if done:
                try:
                    await self._checkpoints.advance(self.name, run.part(0, done))
                except PositionMoved as moved:
                    return Failure(run, moved)
            error = delivery.refused.get(stream) or (draft.error if done == len(draft.ends) else None)
            return Failure(run, HandlerFailed(error)) if error is not None else None

        found = await load_all(advance, by_stream, _AT_ONCE)
        return [failure for failure in found.values() if failure is not None]


class Draft(NamedTuple):
    """The messages of a slice: how many there are up to the end of each commit. `error` is that of the next commit."""

    run: Slice
    ends: list[int]
    error: Exception | None


class _Head(msgspec.Struct):
    id: str
    source: str
    subject: str | None = None


_read_head = msgspec.json.Decoder(_Head).decode


def _join(calls: Iterable[Callable[[], Awaitable[None]]]) -> Callable[[], Awaitable[None]]:
    """Return a function that calls these, one after the other."""
    each_call = list(calls)

    async def call_all() -> None:
        for call in each_call:
            await call()

    return call_all
