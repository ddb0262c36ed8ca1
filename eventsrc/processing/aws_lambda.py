"""Processors in AWS Lambda: fed by DynamoDB Streams, Kinesis Data Streams for DynamoDB, or EventBridge Pipes.

Sources: "Configuring partial batch response with DynamoDB and Lambda" in the AWS Lambda Developer Guide; "Batching and
concurrency" in the Amazon EventBridge User Guide.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from contextvars import copy_context
from math import inf
from typing import Any, NamedTuple, Protocol

from ..errors import CorruptPayload, Fenced, StoreError, StoreRejected
from ..log import log
from ..store import Commit
from ..stores.dynamodb.store import DynamoDBStore
from .processor import Processor

App = Callable[[], AbstractAsyncContextManager[Processor[Any] | Sequence[Processor[Any]]]]
Answer = dict[str, list[dict[str, str]]]

_RETRYABLE = (StoreError, TimeoutError, Fenced)  # another try may do


class Invocation(Protocol):
    """What is needed of Lambda's context."""

    def get_remaining_time_in_millis(self) -> int: ...


class Record(NamedTuple):
    """What a record of an event is about: a commit, or where one is that cannot be read."""

    number: int  # of the record
    stream: str
    version: int
    commit: Commit | None


class LambdaHandler:
    """Called by Lambda, from one invocation to the next; see `lambda_handler`."""

    def __init__(self, app: App, margin: float, partial: bool) -> None:
        self._app, self._margin, self._partial = app, margin, partial
        self._thread = ThreadPoolExecutor(1, "eventsrc-lambda")  # has the loop, so that callers may have another
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._processors: Sequence[Processor[Any]] = ()

    def __call__(self, event: object, context: Invocation | None) -> Answer:
        """Without a context, as in a test, there is all the time."""
        seconds = inf if context is None else context.get_remaining_time_in_millis() / 1000 - self._margin
        outer = copy_context()
        return self._thread.submit(lambda: self._runner.run(self._handle(event, seconds), context=outer)).result()

    def close(self) -> None:
        """Release everything, for tests: Lambda never tells when it throws an environment away."""
        self._thread.submit(lambda: self._runner.run(self._stop())).result()
        self._thread.submit(self._runner.close).result()
        self._thread.shutdown()
        self._thread.shutdown()

    async def _handle(self, event: object, seconds: float) -> Answer:
        records = event.get("Records") if isinstance(event, Mapping) else event
        if not isinstance(records, list):
            raise ValueError("neither records of DynamoDB or Kinesis as Lambda has them, nor those of Pipes")
        until = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(until):
                await self._start()
            results = await asyncio.gather(
                *(self._deliver(processor, records, until) for processor in self._processors), return_exceptions=True
            )
            failures: dict[int, Exception] = {}
            for result in results:
                if isinstance(result, BaseException):
                    raise result
                failures |= result
        except BaseException:
            await self._stop()
            raise
        if not failures:
            return _answer([])
        first = min(failures)
        reason = f"{type(failures[first]).__name__} {failures[first]}"
        log.error("from record %d of %d on not all was handled: %s", first + 1, len(records), reason)
        if not self._partial:
            raise failures[first]
        if isinstance(event, Mapping):  # Lambda goes on with this one
            return _answer([_sequence_number(records[first])])
        return _answer([_event_id(records[number]) for number in sorted(failures)])

    async def _start(self) -> None:
        if not self._processors:
            given = await self._stack.enter_async_context(self._app())
            processors = [given] if isinstance(given, Processor) else list(given)
            for processor in processors:
                if not isinstance(processor.store, DynamoDBStore):
                    raise TypeError(
                        f"{processor.name} has a {type(processor.store).__name__}; the events are of DynamoDB"
                    )
            self._processors = processors
        for processor in self._processors:
            if not processor.held:
                await processor.prepare()
                await processor.join()

    async def _stop(self) -> None:
        """Whatever has happened, the next invocation starts anew."""
        processors, self._processors = self._processors, ()
        stack, self._stack = self._stack, AsyncExitStack()
        async with stack:
            for processor in processors:
                await processor.drop()

    async def _deliver(self, processor: Processor[Any], raw: Sequence[Any], until: float) -> dict[int, Exception]:
        """The records that this processor has not handled, by number, and why."""
        assert isinstance(processor.store, DynamoDBStore)
        records, failures = _read_records(raw, processor.store)
        try:
            async with asyncio.timeout_at(until):
                await asyncio.sleep(0)  # without any time left nothing is begun
                await processor.handle([each.commit for each in records if each.commit is not None])
                for each in records:
                    if each.commit is None:
                        await _catch_up_damaged(processor, each)
                await processor.wait_until_idle()
        except _RETRYABLE as error:
            with suppress(*_RETRYABLE):  # a handler that fails is not to fail with the whole batch again and again
                async with asyncio.timeout(self._margin / 4):
                    await processor.parking.park_failing()
            await processor.drop()
            failures |= dict.fromkeys(await self._unhandled(processor, records), error)
        return failures

    async def _unhandled(self, processor: Processor[Any], records: Sequence[Record]) -> Sequence[int]:
        """The numbers of what is neither handled nor parked. Positions tell; what they do not tell comes again."""
        try:
            async with asyncio.timeout(self._margin / 4):
                positions = await processor.positions(list({each.stream for each in records}))
                found = await processor.checkpoints.parked(processor.name, {each.stream for each in records})
                parked = {each.stream for each in found if not each.released}
        except _RETRYABLE:
            positions, parked = {}, set()
        return [
            each.number
            for each in records
            if each.stream not in parked and positions.get(each.stream, 0) < each.version
        ]


def lambda_handler(app: App, *, margin: float = 1.0, partial: bool = True) -> LambdaHandler:
    """A handler for Lambda that gives processors what their table's changes tell.

    ```python
    @asynccontextmanager
    async def app():
        async with DynamoDBStore("ledger") as store, DynamoDBCheckpoints("ledger-processors") as checkpoints:
            yield Processor(AirportDelays(), store, checkpoints)  # or a list of them

    handler = lambda_handler(app)
    ```

    `app` is entered at the first invocation, and anew after an error; loop and connections stay from one invocation to
    the next. Records may come in any order, repeatedly, and to several environments at once: positions decide. A
    handler that fails is called again, for as long as there is time, and then parks its stream, and so does a commit
    that cannot be read. None of that is a failure of the batch: no stream ever blocks a shard.

    What is not handled, since a store does not answer or there are `margin` seconds left, is answered as
    `batchItemFailures`: the sequence number of the first such record, or for Pipes the ids of them all. So turn on
    `ReportBatchItemFailures`. **Without it Lambda takes the answer for success**, and what was not handled comes only
    with the next commit of its stream. With `partial=False` the error is raised instead, whatever the settings are: the
    whole batch comes again, and what is handled already costs a look at its position.

    A record that is no change of the table is answered as a failure too: it shows that the function listens to another
    source than its store, so to pass over it might be to pass over commits. It comes again until that is mended, or
    until the limits of the event source mapping send it to where failures go.
    """
    return LambdaHandler(app, margin, partial)


async def _catch_up_damaged(processor: Processor[Any], record: Record) -> None:
    """Have a stream catch up with a commit that came damaged. If it is so in the table, too, that parks the stream."""
    parking = processor.parking
    if record.stream in await parking.out_of_feed({record.stream}):
        parking.note_newer(record.stream, record.version)
        return
    base = record.version - 1 if processor.held[processor.slot_of(record.stream)].began else 0
    position = (await processor.positions([record.stream])).get(record.stream, base)
    if position < record.version:
        parking.retry_later(record.stream, position, record.version)


def _read_records(raw: Sequence[Any], store: DynamoDBStore) -> tuple[list[Record], dict[int, Exception]]:
    """What records tell, and those that are no change of the store's table."""
    records: list[Record] = []
    failures: dict[int, Exception] = {}
    for number, record in enumerate(raw):
        try:
            commits = [change.commit for change in store.changes([record])]
            records += [Record(number, each.stream, each.version, each) for each in commits if each is not None]
        except CorruptPayload as error:
            if error.version:
                records.append(Record(number, error.stream, error.version, None))
            else:
                failures[number] = error
        except (ValueError, StoreRejected) as error:
            failures[number] = error
    return records, failures


def _answer(identifiers: Sequence[str]) -> Answer:
    """An empty identifier stands for a failure of the whole batch."""
    return {"batchItemFailures": [{"itemIdentifier": identifier} for identifier in identifiers]}


def _sequence_number(record: object) -> str:
    for carrier, name in (("kinesis", "sequenceNumber"), ("dynamodb", "SequenceNumber")):
        if isinstance(record, Mapping) and isinstance(carried := record.get(carrier), Mapping):
            return str(carried.get(name, ""))
    return ""


def _event_id(record: object) -> str:
    return str(record.get("eventID", "")) if isinstance(record, Mapping) else ""
