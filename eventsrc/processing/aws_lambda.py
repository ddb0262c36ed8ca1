"""Run processors in AWS Lambda, on events of DynamoDB Streams, Kinesis Data Streams for DynamoDB or EventBridge Pipes.

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

from ..errors import CorruptPayload, Fenced, NotActive, StoreError, StoreRejected, SwitchPending
from ..log import log
from ..store import Commit
from ..stores.dynamodb.store import DynamoDBStore
from ..stores.feed import Damaged
from .assignment import CONFIRM_SECONDS
from .pipeline import Pipeline
from .processor import Processor

App = Callable[[], AbstractAsyncContextManager[Processor[Any] | Sequence[Processor[Any]]]]
Answer = dict[str, list[dict[str, str]]]


class Invocation(Protocol):
    """The part of Lambda's context that is used."""

    def get_remaining_time_in_millis(self) -> int: ...


class Record(NamedTuple):
    """The commit that a record of an event holds, or the damage, if it cannot be read."""

    number: int  # of the record in the event, from 0
    stream: str
    version: int
    commit: Commit | None
    damage: Damaged | None


class Paused(Exception):
    """The processor is paused, so its records are answered as failed, and are sent again."""


_RETRYABLE = (StoreError, TimeoutError, Fenced, Paused)  # may succeed in another invocation


class LambdaHandler:
    """The object that Lambda calls for each invocation; see `lambda_handler`."""

    def __init__(self, app: App, margin: float, partial: bool) -> None:
        self._app, self._margin, self._partial = app, margin, partial
        self._thread = ThreadPoolExecutor(1, "eventsrc-lambda")  # runs the event loop; callers may have their own
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._processors: Sequence[Processor[Any]] = ()
        self._refused: dict[str, Exception] = {}  # why a processor may not handle anything, by name
        self._checked = -inf  # when it was last read which versions are active

    def __call__(self, event: object, context: Invocation | None) -> Answer:
        """Handle an event. Without a context, as in a test, time is unlimited."""
        seconds = inf if context is None else context.get_remaining_time_in_millis() / 1000 - self._margin
        outer = copy_context()
        return self._thread.submit(lambda: self._runner.run(self._handle(event, seconds), context=outer)).result()

    def close(self) -> None:
        """Release everything. For tests: Lambda gives no notice when it removes an environment."""
        self._thread.submit(lambda: self._runner.run(self._stop())).result()
        self._thread.submit(self._runner.close).result()
        self._thread.shutdown()
        self._thread.shutdown()

    async def _handle(self, event: object, seconds: float) -> Answer:
        records = event.get("Records") if isinstance(event, Mapping) else event
        if not isinstance(records, list):
            raise ValueError("the event has no records of DynamoDB, Kinesis or Pipes; check the source of the function")
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
        log.error("record %d of %d was not handled, and later ones may not be: %s", first + 1, len(records), reason)
        if not self._partial:
            raise failures[first]
        if isinstance(event, Mapping):  # Lambda retries from this record on
            return _answer([_sequence_number(records[first])])
        return _answer([_event_id(records[number]) for number in sorted(failures)])

    async def _start(self) -> None:
        """Enter the app at the first invocation. If the last check is old, check whether its versions still handle."""
        if not self._processors:
            given = await self._stack.enter_async_context(self._app())
            processors = [given] if isinstance(given, Processor) else list(given)
            if len({processor.name for processor in processors}) < len(processors):
                raise ValueError("two processors have the same tag and version; give each its own tag")
            for processor in processors:
                if not isinstance(processor.store, DynamoDBStore):
                    raise TypeError(f"{processor.name} has a {type(processor.store).__name__}; give it a DynamoDBStore")
            self._processors = processors
        clock = asyncio.get_running_loop().time()
        if clock - self._checked < CONFIRM_SECONDS:
            return
        self._refused.clear()
        for processor in self._processors:
            try:
                await _check(processor.pipeline)
            except (NotActive, SwitchPending) as error:
                self._refused[processor.name] = error
        self._checked = clock

    async def _stop(self) -> None:
        """Close everything, so that the next invocation starts fresh."""
        processors, self._processors = self._processors, ()
        stack, self._stack = self._stack, AsyncExitStack()
        self._checked = -inf
        async with stack:
            for processor in processors:
                await processor.pipeline.checkpointer.drop()

    async def _deliver(self, processor: Processor[Any], raw: Sequence[Any], until: float) -> dict[int, Exception]:
        """Pass records to a processor. Return the numbers of those that it has not handled, each with the error."""
        assert isinstance(processor.store, DynamoDBStore)
        pipeline = processor.pipeline
        records, failures = _read_records(raw, processor.store)
        try:
            if (refused := self._refused.get(processor.name)) is not None:
                return failures | dict.fromkeys(range(len(raw)), refused)
            if pipeline.paused:
                raise Paused(processor.name)
            async with asyncio.timeout_at(until):
                await asyncio.sleep(0)  # stops here if no time is left
                await pipeline.handle(
                    [each.commit for each in records if each.commit is not None],
                    [each.damage for each in records if each.damage is not None],
                )
                await pipeline.wait_until_idle()
        except _RETRYABLE as error:
            with suppress(*_RETRYABLE):  # else a failing handler would fail the whole batch each time
                async with asyncio.timeout(self._margin / 4):
                    await pipeline.retries.end_attempts()
            await pipeline.checkpointer.drop()
            self._checked = -inf
            failures |= dict.fromkeys(await self._unhandled(processor, records), error)
        return failures

    async def _unhandled(self, processor: Processor[Any], records: Sequence[Record]) -> Sequence[int]:
        """Return the numbers of records neither handled nor parked, or of all if positions cannot be read."""
        try:
            async with asyncio.timeout(self._margin / 4):
                positions = await processor.positions(list({each.stream for each in records}))
                found = await processor.checkpoints.parked(processor.name, {each.stream for each in records})
                parked = {each.stream for each in found if each.state == "parked"}
        except _RETRYABLE:
            positions, parked = {}, set()
        return [
            each.number
            for each in records
            if each.stream not in parked
            and positions.get(each.stream, 0) < each.version
            and (each.commit is None or processor.projection.wants(each.commit))
        ]


async def _check(pipeline: Pipeline) -> None:
    """Check that this version of a processor may handle commits. Raises NotActive, SwitchPending."""
    if pipeline.assignment.held:
        await pipeline.assignment.registrar.check_active()
        pipeline.assignment.paused = await pipeline.assignment.registrar.is_paused()
    else:
        await pipeline.prepare()
    await pipeline.assignment.join()


def lambda_handler(app: App, *, margin: float = 1.0, partial: bool = True) -> LambdaHandler:
    """Return a handler for Lambda that passes the changes of a table to processors.

    ```python
    @asynccontextmanager
    async def app():
        async with DynamoDBStore("ledger") as store, DynamoDBCheckpoints("ledger-processors") as checkpoints:
            yield Processor(AirportDelays(), store, checkpoints)  # or a list of them

    handler = lambda_handler(app)
    ```

    `app` is entered at the first invocation, and again after an error. The event loop and connections are kept from one
    invocation to the next. Records may come in any order, repeatedly, and in several environments at once: the stored
    positions keep handling exact.

    - **A handler that fails**, or is cut short because no time is left, is called again, in this invocation or in the
      next one, which receives its record again. After the processor's `attempts` its stream is parked, and its records
      are answered as handled, so no stream blocks a shard for longer. A commit that cannot be read parks its stream,
      too.
    - **A version that was replaced**, or a processor that is paused, answers all records as failed. What a warm
      environment believes about that is at most one second old.
    - **Records that are not handled**, because a store does not answer or only `margin` seconds are left, are returned
      as `batchItemFailures`: the sequence number of the first one, or for Pipes the ids of all of them. Turn on
      `ReportBatchItemFailures`. **Without it, Lambda takes this result for success**, and these records are handled
      only with the next commit of their stream.
    - **With `partial=False`** the error is raised instead, whatever the settings are. Lambda then sends the whole batch
      again, and each record that was handled costs a read of its position.
    - **A record that is not a change of the table** is returned as a failure, too: it shows that the function listens
      to a source other than its store, so skipping it could skip commits. Lambda sends it again until that is fixed, or
      until the limits of the event source mapping send it to the failure destination.
    """
    return LambdaHandler(app, margin, partial)


def _read_records(raw: Sequence[Any], store: DynamoDBStore) -> tuple[list[Record], dict[int, Exception]]:
    """Return the commits of these records, and by number the errors of records that are not changes of the table."""
    records: list[Record] = []
    failures: dict[int, Exception] = {}
    for number, record in enumerate(raw):
        try:
            commits = [change.commit for change in store.changes([record])]
            records += [Record(number, each.stream, each.version, each, None) for each in commits if each is not None]
        except CorruptPayload as error:
            if error.version:
                damage = Damaged(error.stream, error.version, error)
                records.append(Record(number, error.stream, error.version, None, damage))
            else:
                failures[number] = error
        except (ValueError, StoreRejected) as error:
            failures[number] = error
    return records, failures


def _answer(identifiers: Sequence[str]) -> Answer:
    """Build the result. An empty identifier stands for a failure of the whole batch."""
    return {"batchItemFailures": [{"itemIdentifier": identifier} for identifier in identifiers]}


def _sequence_number(record: object) -> str:
    for carrier, name in (("kinesis", "sequenceNumber"), ("dynamodb", "SequenceNumber")):
        if isinstance(record, Mapping) and isinstance(carried := record.get(carrier), Mapping):
            return str(carried.get(name, ""))
    return ""


def _event_id(record: object) -> str:
    return str(record.get("eventID", "")) if isinstance(record, Mapping) else ""
