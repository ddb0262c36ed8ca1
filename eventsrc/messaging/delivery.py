"""Delivery of messages to a sink: in batches, in the order of each stream, again where a batch was taken in part."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence

from ..errors import MessageRefused, StoreUnavailable, Throttled
from ..retrying import TRANSIENT, on_busy_sink
from .sinks.sink import Message, Refusal, Sink

PATIENCE = 10.0
"""Seconds for which messages are sent again that a sink did not take. Then the processor waits for the sink."""


class Delivery:
    """The messages of some streams, until a sink has taken them.

    `timeout` is the number of seconds that a request may take. `confirm` is awaited before each request.
    """

    def __init__(self, sink: Sink, timeout: float, confirm: Callable[[], Awaitable[None]]) -> None:
        self._sink, self._timeout, self._confirm = sink, timeout, confirm
        self._counts: dict[str, int] = {}  # of the messages of each stream
        self._waiting: dict[str, deque[tuple[int, Message]]] = {}  # those not taken yet, each with its number
        self.refused: dict[str, Exception] = {}  # by stream: why no more of its messages are sent

    def add(self, message: Message) -> None:
        number = self._counts.get(message.stream, 0)
        self._counts[message.stream] = number + 1
        self._waiting.setdefault(message.stream, deque()).append((number, message))

    def taken(self, stream: str) -> int:
        """Return how many of the first messages of a stream were taken, without one that was not between them."""
        waiting = self._waiting.get(stream)
        return waiting[0][0] if waiting else self._counts.get(stream, 0)

    async def send_all(self) -> None:
        """Send all messages, those of each stream in the order in which they were added.

        A stream whose message is refused for good is in `refused`, and the rest of it is not sent. So are the streams
        of a batch for which the sink raised another error than those below, or did not return a result per message.

        Raises:
            Throttled, StoreUnavailable: after PATIENCE there are still messages that were not taken.
            Fenced: from `confirm`.
        """
        await on_busy_sink(PATIENCE)(self._send_waiting)

    async def _send_waiting(self) -> None:
        while batch := self._next_batch():
            await self._confirm()
            await self._send(batch)

    async def _send(self, batch: list[tuple[int, Message]]) -> None:
        """Send a batch, and drop what was taken. Raises Throttled if some was not, and StoreUnavailable."""
        messages = [message for _, message in batch]
        try:
            async with asyncio.timeout(self._timeout):
                refusals = _check_results(await self._sink.send(messages), len(batch))
        except TRANSIENT:
            raise
        except TimeoutError:
            raise StoreUnavailable(f"the sink gave no answer within {self._timeout:g} seconds") from None
        except Exception as error:  # noqa: BLE001  # StoreRejected, or anything that a sink of the user raises
            self.refused |= dict.fromkeys((message.stream for message in messages), error)
            return
        busy = ""
        for each, refusal in zip(batch, refusals, strict=True):
            _, message = each
            if refusal is None:
                self._drop(each)
            elif refusal.is_final:
                self.refused.setdefault(message.stream, MessageRefused(message.id, refusal.code))
            else:
                busy = refusal.code
        if busy:
            raise Throttled(f"the sink did not take all messages of a batch ({busy})")

    def _drop(self, taken: tuple[int, Message]) -> None:
        stream = taken[1].stream
        self._waiting[stream].remove(taken)
        if not self._waiting[stream]:
            del self._waiting[stream]

    def _next_batch(self) -> list[tuple[int, Message]]:
        """Return the next messages that fit into a batch."""
        sink, batch, size = self._sink, list[tuple[int, Message]](), 0
        for each in self._candidates():
            size += sink.size_of(each[1])
            if len(batch) == sink.max_messages or size > sink.max_batch_bytes:
                break
            batch.append(each)
        return batch

    def _candidates(self) -> Iterator[tuple[int, Message]]:
        """Yield messages that may be sent now: if the sink keeps an order, only the first one of each stream.

        A batch may be taken in part, and a later message of a stream must not overtake an earlier one.
        """
        for stream, waiting in self._waiting.items():
            if stream in self.refused:
                continue
            if self._sink.is_ordered:
                yield waiting[0]
            else:
                yield from waiting


def _check_results(results: object, count: int) -> Sequence[Refusal | None]:
    """Return what a sink returned for so many messages. Raises TypeError if it is something else."""
    if not isinstance(results, Sequence) or len(results) != count:
        returned = f"{len(results)} results" if isinstance(results, Sequence) else f"a {type(results).__name__}"
        raise TypeError(f"the sink returned {returned} for {count} messages; return None or a Refusal for each")
    if any(each is not None and not isinstance(each, Refusal) for each in results):
        raise TypeError("the sink returned something else than None or a Refusal for a message")
    return results
