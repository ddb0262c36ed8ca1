"""The inbox: events of another service, each stored here exactly once."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import aclosing, suppress
from typing import Literal

from tenacity import AsyncRetrying

from ..concurrency import load_all
from ..errors import AggregateNotFound, CommitOutcomeUnknown, ConflictError, Fenced, StoreError, WrongSource
from ..log import log
from ..processing.checkpoints.checkpoints import Checkpoints
from ..publishing.start import LATEST
from ..publishing.token import FeedToken
from ..repository.repository import Repository
from ..retrying import TRANSIENT, on_outage
from ..store import Receipt, Store
from ..trace_context import trace
from ..tracing.cloud_events import trace_cloud_event
from .client import EventsClient
from .inbox_stream import ForeignPlace, InboxStream, escape, find_place, shorten, to_received
from .received_event import ReceivedEvent
from .resume_token import Mark, ResumeToken, Resumption


class Inbox:
    """Stores each event of one source once, as an event `Received`, for processors to handle like any other.

    ```python
    inbox = Inbox("/ledger", store, checkpoints)
    async with events_client("https://ledger.example.com/events/") as events:
        await inbox.run(events)
    ```

    - The events of a foreign stream are in one stream of the category `inbox`, in their order, each as one commit. The
      commit has the correlation id of the foreign event, the event's id as its cause, and its source and `traceparent`
      in the metadata.
    - An event is recognised by its id, of which an inbox stream keeps the last one. So any number of workers may run,
      be killed, and receive the same events again.
    - The token from which `run` resumes is stored after the events before it, at most every `save_every` seconds.
    - If its own store was restored or replaced, `run` notices it when it starts, and reads all events again.
    - `start="latest"` begins with the event that is stored there after the first run has begun.
    - `ordered=False` is for events that do not come in order, such as those of a standard queue, or whose ids have no
      order. Each has an inbox stream of its own: it is stored once, and in no order.
    - Streams are stored concurrently, `concurrency` at a time.

    Raises:
        ValueError: an option has a value that is not allowed.
    """

    def __init__(
        self,
        source: str,
        store: Store,
        checkpoints: Checkpoints,
        *,
        start: Literal["beginning", "latest"] = "beginning",
        ordered: bool = True,
        concurrency: int = 32,
        save_every: float = 1.0,
    ) -> None:
        if not source:
            raise ValueError("source is empty; give the CloudEvents attribute of the other service, such as '/ledger'")
        if start not in ("beginning", LATEST):
            raise ValueError(f"start is {start!r}; give 'beginning' or 'latest'")
        if concurrency < 1 or not save_every >= 0:
            raise ValueError(f"concurrency is {concurrency}, save_every {save_every}; give at least 1, and at least 0")
        self.source = source
        self._store = store
        self._streams = Repository(InboxStream, store)
        self._token = ResumeToken(checkpoints, f"inbox:{shorten(escape(source))}")
        self._start, self._ordered = start, ordered
        self._concurrency, self._save_every = concurrency, save_every

    async def run(self, events: EventsClient) -> None:
        """Store events until the client ends, or an error or a cancellation ends it. Then it may run again.

        - A store that cannot be reached is waited for. Another process may run the same inbox at the same time.
        - If the last event before the stored token is not in the store any more, the token is not used: `run` reads
          again from where the inbox began. What is stored is recognised.

        Raises:
            SourceError: the events cannot be received; after SourceTokenGone, call `restart`.
            WrongSource: an event is of another source.
            CommitTooLarge: an event is larger than a commit of this store.
            StoreError: a store failed with an error that does not pass.
        """
        start = await self._find_start(events)
        events.resume_from(start.token)
        clock = asyncio.get_running_loop().time
        mark = start.mark
        is_marked = True  # all that was stored before the client's token was stored before the mark
        stored = saved = events.token  # `stored`: the last token for which this was so
        saved_at = clock()
        try:
            while not events.has_ended:
                if batch := await events.read():
                    receipt = await self._receive_in_turn(batch)
                    if is_marked := not receipt.duplicate:
                        assert receipt.commit_id is not None
                        mark = Mark(receipt.stream, receipt.version, receipt.commit_id)
                if is_marked:
                    stored = events.token
                if stored != saved and clock() - saved_at >= self._save_every:
                    await _wait()(self._token.save, stored, mark)
                    saved, saved_at = stored, clock()
        finally:
            if stored != saved:
                with suppress(StoreError, Fenced):  # the next run receives these events again
                    await self._token.save(stored, mark)

    async def receive(self, event: ReceivedEvent) -> Receipt:
        """Store an event that has come in any way. The receipt is a `duplicate` if it was stored before.

        With `ordered`, the events of a foreign stream must be given in their order, from the first one on: an event
        that is not after the last one counts as stored.

        Raises:
            WrongSource: the event is of another source.
            CommitTooLarge, CommitOutcomeUnknown, StoreError: it may not be stored; call it again.
        """
        return await self._append(event, self._find_place(event))

    async def receive_all(self, events: Iterable[ReceivedEvent]) -> None:
        """Store events, those of each foreign stream in this order. A store that cannot be reached is waited for.

        Raises as `run`. Then some of them may not be stored; call it again with all of them.
        """
        by_stream: dict[str, list[tuple[ReceivedEvent, ForeignPlace]]] = defaultdict(list)
        for event in events:
            place = self._find_place(event)
            by_stream[place.inbox].append((event, place))

        async def store_in_order(inbox: str) -> None:
            for event, place in by_stream[inbox]:
                await _wait()(self._append, event, place)

        await load_all(store_in_order, by_stream, self._concurrency)

    async def restart(self, token: str = "") -> None:
        """Let the next run start after this token, or with the first event of the service.

        After a later restore of the inbox's own store, it reads again from there, too.

        Events that are stored already are recognised. After a restore of the other service, those that were lost there
        stay stored here, and new ones that have their ids count as stored: begin a new inbox with another store, or
        compare by hand.

        Raises:
            ValueError: it is not a token of an events API.
            StoreError: it could not be stored.
        """
        if token:
            FeedToken.parse(token)
        await self._token.replace(token)

    async def _find_start(self, events: EventsClient) -> Resumption:
        while True:
            found: Resumption | None = await _wait()(self._token.load)
            if found is None:
                if self._start != LATEST:
                    return Resumption()
                await _wait()(self._token.save_first, await events.find_latest())
            elif found.mark is None or await _wait()(self._has, found.mark):
                return found
            else:
                log.warning(
                    "the inbox of %s reads all events again: its store was restored or replaced, and has lost %s@%d",
                    self.source,
                    found.mark.stream,
                    found.mark.version,
                )
                await _wait()(self._token.begin_again, found)

    async def _has(self, mark: Mark) -> bool:
        """Whether the commit is in the store: neither lost nor replaced by another one."""
        async with aclosing(self._store.read(mark.stream, after=mark.version - 1, until=mark.version)) as commits:
            return any([commit.id == mark.commit_id async for commit in commits])

    async def _receive_in_turn(self, events: Sequence[ReceivedEvent]) -> Receipt:
        """Store events as `receive_all`, and the last one after all others have been stored. Return its receipt."""
        *others, last = events
        await self.receive_all(others)
        receipt: Receipt = await _wait()(self._append, last, self._find_place(last))
        return receipt

    def _find_place(self, event: ReceivedEvent) -> ForeignPlace:
        if event.source != self.source:
            raise WrongSource(self.source, event.source)
        return find_place(event, ordered=self._ordered)

    async def _append(self, event: ReceivedEvent, place: ForeignPlace) -> Receipt:
        """Store an event if it is after the last one of its inbox stream.

        The state that decides is the one that the append follows. So of two workers, and of an append whose outcome is
        not known and the one that repeats it, one is stored.
        """
        received = to_received(event)
        attributes = {"id": event.id, "correlationid": event.correlation_id, "traceparent": event.traceparent}
        with trace_cloud_event(attributes), trace(metadata={"source": event.source}):
            while True:
                try:
                    done = await self._streams.execute_with_receipt(
                        place.inbox, InboxStream.receive, received, place.numbers
                    )
                    return done.receipt if done.result else done.receipt._replace(duplicate=True)
                except AggregateNotFound:
                    stream = InboxStream(id=place.inbox)
                    stream.receive(received, place.numbers)
                with suppress(ConflictError):  # another worker has created it
                    return await self._streams.save(stream)


def _wait() -> AsyncRetrying:
    """Return the policy that waits for a store. All that it repeats is idempotent, also after an unknown outcome."""
    return on_outage(lambda error: isinstance(error, (*TRANSIENT, CommitOutcomeUnknown)), note=_note)


def _note(error: BaseException, seconds: float) -> None:
    log.warning("an inbox waits for a store: %s; trying again in %.1f s", error, seconds)
