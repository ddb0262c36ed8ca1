"""OpenTelemetry, optional: `pip install "eventsrc[telemetry]"`, then `instrument(store, accounts)`.

OpenTelemetry is imported only by this module, and runs only for instrumented objects.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

try:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider
    from opentelemetry.trace import (
        Link,
        Span,
        SpanContext,
        SpanKind,
        Status,
        StatusCode,
        TraceFlags,
        TracerProvider,
        get_current_span,
        get_tracer_provider,
    )
except ModuleNotFoundError as error:
    raise ImportError('eventsrc.telemetry needs OpenTelemetry; run: pip install "eventsrc[telemetry]"') from error

from .errors import CommitOutcomeUnknown, ConflictError
from .processing.slice import HandlerFailed
from .repository.repository import Repository
from .store import Commit, Loaded, Receipt, Snapshot, Store
from .stores.transacting import Guard, Transacting
from .stream_id import category_of
from .trace_context import stamp_all

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from .processing import Failure, Processor, Slice

__all__ = ["instrument", "instrument_processors"]

_MAX_LINKS = 100
_COUNTERS = {
    "calls": "{call}",
    "requests": "{request}",
    "retries": "{request}",
    "conflicts": "{conflict}",
    "read_units": "{unit}",
    "write_units": "{unit}",
    "bytes_written": "By",
    "bytes_read": "By",
}


def instrument(
    store: Store,
    *repositories: Repository[Any],
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> None:
    """Record spans and metrics of a store, and metrics of the caches of repositories.

    Call it once for each store, before the store is used.

    - Spans: `eventsrc.append`, `eventsrc.append_all`, `eventsrc.load` and `eventsrc.put_snapshot`, with category,
      version and outcome. Stream ids and payloads are left out, because they may identify people.
    - Metrics: `eventsrc.requests`, `eventsrc.write_units` and so on, one for each field of Usage, and
      `eventsrc.cache.hits` and `eventsrc.cache.misses`.
    - Commits of this process store the span in which they are made, as `traceparent` in their metadata (W3C Trace
      Context), unless a trace has given one.
    """
    stamp_all("traceparent", _read_traceparent)
    tracer = (tracer_provider or get_tracer_provider()).get_tracer("eventsrc")
    meter = (meter_provider or get_meter_provider()).get_meter("eventsrc")
    kind = {"eventsrc.store": type(store).__name__}

    @contextmanager
    def span(name: str, stream: str) -> Iterator[Span]:
        attributes = {**kind, "eventsrc.category": category_of(stream)}
        with tracer.start_as_current_span(
            f"eventsrc.{name}",
            kind=SpanKind.CLIENT,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as current:
            try:
                yield current
            except BaseException as error:
                current.set_attribute("eventsrc.outcome", _name_outcome(error))
                if not isinstance(error, ConflictError):
                    current.set_status(Status(StatusCode.ERROR, type(error).__name__))
                raise
            current.set_attribute("eventsrc.outcome", "ok")

    append, load, put_snapshot = store.append, store.load, store.put_snapshot

    async def traced_append(commit: Commit) -> Receipt:
        with span("append", commit.stream) as current:
            current.set_attribute("eventsrc.version", commit.version)
            receipt = await append(commit)
            if receipt.usage is not None:
                current.set_attribute("eventsrc.requests", receipt.usage.requests)
                current.set_attribute("eventsrc.write_units", receipt.usage.write_units)
            return receipt

    async def traced_load(stream: str) -> Loaded:
        with span("load", stream) as current:
            loaded = await load(stream)
            current.set_attribute("eventsrc.commits", len(loaded.commits))
            current.set_attribute("eventsrc.snapshot", loaded.snapshot is not None)
            return loaded

    async def traced_put(snapshot: Snapshot) -> bool:
        with span("put_snapshot", snapshot.stream) as current:
            current.set_attribute("eventsrc.version", snapshot.version)
            return await put_snapshot(snapshot)

    if isinstance(store, Transacting):
        append_all = store.append_all

        async def traced_append_all(
            commits: Sequence[Commit], guards: Sequence[Guard] = (), **options: Any
        ) -> Sequence[Receipt]:
            with span("append_all", commits[0].stream if commits else "") as current:
                current.set_attribute("eventsrc.commits", len(commits))
                current.set_attribute("eventsrc.guards", len(guards))
                return await append_all(commits, guards, **options)

        store.append_all = traced_append_all  # type: ignore[method-assign]
    # On this object only: a store that is not instrumented pays nothing.
    store.append, store.load, store.put_snapshot = traced_append, traced_load, traced_put  # type: ignore[method-assign]
    for name, unit in _COUNTERS.items():
        reader = partial(_observe, [(partial(_read_usage, store, name), kind)])
        meter.create_observable_counter(f"eventsrc.{name}", [reader], unit)
    for name in ("hits", "misses"):
        each = [
            (partial(_read_cache_use, one, name), {**kind, "eventsrc.aggregate": one.aggregate_class.__name__})
            for one in repositories
        ]
        meter.create_observable_counter(f"eventsrc.cache.{name}", [partial(_observe, each)], "{command}")


def instrument_processors(
    *processors: Processor[Any],
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> None:
    """Record spans and metrics of processors, each under its name. Call it once for each processor.

    A span `eventsrc.handle` is recorded for commits that are handled together; in Effects, for each one. It has links
    to the spans in which they were made, if that is stored, at most 100. What handlers commit is made in this span.

    Metrics are `eventsrc.processor.handled` and `.in_flight` (commits), `.lag` (seconds; 0 when it has caught up,
    infinite while a store is scanned), `.aside` and `.parked` (streams), and `.live` (1 or 0). They are read from
    memory in this process, without requests.
    """
    tracer = (tracer_provider or get_tracer_provider()).get_tracer("eventsrc")
    meter = (meter_provider or get_meter_provider()).get_meter("eventsrc")
    for processor in processors:
        _record_handling(processor, tracer)

    def make_callbacks(
        read: Callable[[Processor[Any]], float],
    ) -> list[Callable[[CallbackOptions], Iterable[Observation]]]:
        each = [(partial(read, processor), {"eventsrc.processor": processor.name}) for processor in processors]
        return [partial(_observe, each)]

    def gauge(name: str, unit: str, read: Callable[[Processor[Any]], float]) -> None:
        meter.create_observable_gauge(f"eventsrc.processor.{name}", make_callbacks(read), unit)

    meter.create_observable_counter(
        "eventsrc.processor.handled", make_callbacks(lambda processor: processor.pipeline.progress.commits), "{commit}"
    )
    gauge("lag", "s", lambda processor: processor.lag)
    gauge("in_flight", "{commit}", lambda processor: processor.pipeline.progress.in_flight)
    gauge("aside", "{stream}", lambda processor: len(processor.pipeline.catch_up.entries))
    gauge("parked", "{stream}", lambda processor: len(processor.pipeline.parking.parked))
    gauge("live", "1", lambda processor: float(processor.state == "live"))


def _record_handling(processor: Processor[Any], tracer: Tracer) -> None:
    projection, apply = processor.projection, processor.projection.apply

    async def traced_apply(runs: Sequence[Slice]) -> Sequence[Failure]:
        commits = [commit for run in runs for commit in run.commits]
        parents = dict.fromkeys(commit.metadata.get("traceparent", "") for commit in commits)
        links = [Link(parent) for text in parents if (parent := _parse_traceparent(text)) is not None]
        with tracer.start_as_current_span(
            "eventsrc.handle",
            kind=SpanKind.CONSUMER,
            attributes={"eventsrc.processor": processor.name, "eventsrc.commits": len(commits)},
            links=links[:_MAX_LINKS],
            record_exception=False,
            set_status_on_exception=False,
        ) as current:
            try:
                failures: Sequence[Failure] = await apply(runs)
            except BaseException as error:
                current.set_status(Status(StatusCode.ERROR, type(error).__name__))
                raise
            if failures:
                failed = failures[0].error
                cause = failed.error if isinstance(failed, HandlerFailed) else failed
                current.set_status(Status(StatusCode.ERROR, type(cause).__name__))
            return failures

    projection.apply = traced_apply


def _read_traceparent() -> Mapping[str, str]:
    context = get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"}


def _parse_traceparent(text: str) -> SpanContext | None:
    parent = re.fullmatch(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})", text)
    if parent is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in parent.groups())
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))


def _read_usage(store: Store, name: str) -> float:
    value: float = getattr(store.usage, name)
    return value


def _read_cache_use(repository: Repository[Any], name: str) -> int:
    value: int = getattr(repository.cache_use, name)
    return value


def _observe(
    readers: Sequence[tuple[Callable[[], float], dict[str, str]]], options: CallbackOptions
) -> Iterable[Observation]:
    return [Observation(read(), attributes) for read, attributes in readers]


def _name_outcome(error: BaseException) -> str:
    match error:
        case ConflictError():
            return "conflict"
        case CommitOutcomeUnknown():
            return "unknown"
        case Exception():
            return "failed"
    return "cancelled"
