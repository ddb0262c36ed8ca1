"""OpenTelemetry: the contents of spans and metrics, and that they do not identify people."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from support.bank import Account, Opened
from support.flaky import ScriptedStore
from support.ledger import InMemory, commits_of, fill, running

from eventsrc import CommitOutcomeUnknown, ConflictError, MemoryStore, Repository, SnapshotPolicy, Store, Throttled
from eventsrc.processing import Context, Effects, MemoryCheckpoints, Processor, Runner
from eventsrc.telemetry import instrument, instrument_processors
from eventsrc.testing.contract.samples import make_commit
from eventsrc.transactions import transaction


class Instrumented:
    """An instrumented store, with the spans and metrics that it has recorded."""

    def __init__(self, store: ScriptedStore) -> None:
        self.store = store
        self.accounts = Repository(Account, store, snapshots=SnapshotPolicy(floor=0, ratio=0.1, inline=True))
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        tracers = TracerProvider()
        tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        instrument(store, self.accounts, tracer_provider=tracers, meter_provider=MeterProvider([self._reader]))

    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def metrics(self) -> dict[str, float]:
        data: Any = self._reader.get_metrics_data()
        metrics = data.resource_metrics[0].scope_metrics[0].metrics
        return {metric.name: metric.data.data_points[0].value for metric in metrics}


@pytest.fixture
async def instrumented() -> AsyncIterator[Instrumented]:
    async with ScriptedStore() as store:
        yield Instrumented(store)


async def test_each_call_is_a_span_without_the_stream_id(instrumented: Instrumented) -> None:
    await instrumented.accounts.save(Account.open("ann-1970", owner="ann"))
    await instrumented.accounts.load("ann-1970")
    append, put, load = instrumented.spans()
    assert [append.name, put.name, load.name] == ["eventsrc.append", "eventsrc.put_snapshot", "eventsrc.load"]
    assert dict(append.attributes or {}) == {
        "eventsrc.store": "ScriptedStore",
        "eventsrc.category": "account",
        "eventsrc.version": 1,
        "eventsrc.requests": 0,
        "eventsrc.write_units": 0.0,
        "eventsrc.outcome": "ok",
    }
    assert (load.attributes or {})["eventsrc.snapshot"] is True
    assert "ann" not in "".join(span.to_json() for span in instrumented.spans())


async def test_a_transaction_is_one_span(instrumented: Instrumented) -> None:
    async with transaction(instrumented.store) as tx:
        for id in ("ann-1970", "bob-1980"):
            tx.add(instrumented.accounts, Account.open(id, owner="ann"))
        await tx.find(instrumented.accounts, "cid-1990")
    _, append, *_ = instrumented.spans()
    assert append.name == "eventsrc.append_all"
    assert dict(append.attributes or {}) == {
        "eventsrc.store": "ScriptedStore",
        "eventsrc.category": "account",
        "eventsrc.commits": 2,
        "eventsrc.guards": 1,
        "eventsrc.outcome": "ok",
    }
    assert "1970" not in "".join(span.to_json() for span in instrumented.spans())


@pytest.mark.parametrize(
    ("error", "outcome", "is_ok"),
    [
        (ConflictError("account-a-1", 0, 1), "conflict", True),
        (CommitOutcomeUnknown(make_commit("account-a-1")), "unknown", False),
        (Throttled("slow down"), "failed", False),
    ],
)
async def test_a_span_has_the_outcome_of_its_call(
    instrumented: Instrumented, error: Exception, outcome: str, is_ok: bool
) -> None:
    instrumented.store.appends = [("before", error)]
    with pytest.raises(type(error)):
        await instrumented.accounts.save(Account.open("a-1", owner="ann"))
    [append] = instrumented.spans()
    assert (append.attributes or {})["eventsrc.outcome"] == outcome
    assert (append.status.description is None) == is_ok
    assert not append.events  # no traceback


async def test_a_span_of_a_cancelled_call_says_so(instrumented: Instrumented) -> None:
    instrumented.store.appends = [("hang", None)]
    saving = asyncio.create_task(instrumented.accounts.save(Account.open("a-1", owner="ann")))
    await instrumented.store.hanging.wait()
    saving.cancel()
    await asyncio.wait([saving])
    assert (instrumented.spans()[0].attributes or {})["eventsrc.outcome"] == "cancelled"


async def test_usage_and_cache_use_are_metrics(instrumented: Instrumented) -> None:
    await instrumented.accounts.save(Account.open("a-1", owner="ann"))
    with pytest.raises(ConflictError):
        await instrumented.accounts.save(Account.open("a-1", owner="bob"))
    for _ in range(3):
        await instrumented.accounts.execute("a-1", Account.deposit, 1)
    metrics = instrumented.metrics()
    usage = instrumented.store.usage
    assert metrics["eventsrc.conflicts"] == usage.conflicts == 1
    assert metrics["eventsrc.bytes_written"] == usage.bytes_written > 0
    assert (metrics["eventsrc.cache.hits"], metrics["eventsrc.cache.misses"]) == (2, 1)
    assert {f"eventsrc.{name}" for name in usage.__struct_fields__} < metrics.keys()


async def test_the_state_of_processors_is_metrics() -> None:
    reader = InMemoryMetricReader()
    async with MemoryStore() as store:
        await fill(store, accounts=2)
        processor = Processor(InMemory(), store, attempts=1)
        processor.projection.poison = {2}
        instrument_processors(processor, meter_provider=MeterProvider([reader]))
        async with running(processor):
            await asyncio.wait_for(processor.caught_up.wait(), 10)
            data = reader.get_metrics_data()
    assert data is not None
    metrics = data.resource_metrics[0].scope_metrics[0].metrics
    points: dict[str, Any] = {metric.name: metric.data.data_points[0] for metric in metrics}
    assert {name.removeprefix("eventsrc.processor."): point.value for name, point in points.items()} == {
        "handled": 4,
        "lag": 0.0,
        "in_flight": 0,
        "aside": 0,
        "parked": 2,
        "live": 1.0,
    }
    assert {point.attributes["eventsrc.processor"] for point in points.values()} == {"in-memory@1"}


class Passes(Effects, tag="passes"):
    def __init__(self, target: Store) -> None:
        self.accounts, self.failed = Repository(Account, target), False

    async def handle_opened(self, event: Opened, context: Context) -> None:
        if not self.failed:
            self.failed = True
            raise ConnectionError
        await self.accounts.save(Account.open("to", owner=event.owner))


async def test_handling_is_linked_to_the_span_of_the_commit_and_contains_what_it_commits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("eventsrc.trace_context._stamps", {})
    exporter, tracers = InMemorySpanExporter(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    async with MemoryStore() as store, MemoryStore() as target:
        for each in (store, target):
            instrument(each, tracer_provider=tracers)
        processor = Processor(Passes(target), store, MemoryCheckpoints())
        instrument_processors(processor, tracer_provider=tracers)
        with tracers.get_tracer("test").start_as_current_span("request"):
            await Repository(Account, store).save(Account.open("ann-1970", owner="ann"))
        with tracers.get_tracer("test").start_as_current_span("unrelated"):
            await Repository(Account, store).load("ann-1970")
        await Runner(processor).run(until_caught_up=True)
        [commit] = await commits_of(target)
    spans: dict[str, list[Any]] = {}
    for span in exporter.get_finished_spans():
        spans.setdefault(span.name, []).append(span)
    [request], [failed, handled], [_, append] = spans["request"], spans["eventsrc.handle"], spans["eventsrc.append"]
    for span in (failed, handled):
        assert [link.context.span_id for link in span.links] == [request.context.span_id]
        assert dict(span.attributes) == {"eventsrc.processor": "passes@1", "eventsrc.commits": 1}
    assert (failed.status.description, handled.status.is_ok) == ("ConnectionError", True)
    assert append.parent.span_id == handled.context.span_id
    assert commit.metadata["traceparent"].split("-")[2] == f"{handled.context.span_id:016x}"
    assert "ann" not in "".join(span.to_json() for span in (failed, handled))


def test_opentelemetry_is_not_imported_without_being_used() -> None:
    code = "import eventsrc, sys; eventsrc.DynamoDBStore, eventsrc.SQLiteStore; print('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_error_without_the_extra_says_how_to_install_it() -> None:
    code = "import sys; sys.modules['opentelemetry.metrics'] = None; import eventsrc.telemetry"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        'ImportError: eventsrc.telemetry needs OpenTelemetry; run: pip install "eventsrc[telemetry]"'
    )
