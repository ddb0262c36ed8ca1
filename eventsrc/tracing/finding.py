"""Find the trace of an id in one or several stores, and what processors have done with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from ..concurrency import load_all
from ..errors import StoredDataError, StoreError, TraceNotFound
from ..store import Commit, Store
from ..stores.causes import Lookup, identity_of, parse_identity
from ..trace_context import check_text, trace_id_of
from .processes import find_processes
from .trace import Describe, Found, Handling, Trace, build_trace

if TYPE_CHECKING:
    from ..processing import Processor  # a service that only stamps its requests does not load it

MAX_STEPS = 100_000

_AT_ONCE = 8  # stores


async def find_trace(
    id: str,
    stores: Store | Mapping[str, Store],
    *,
    processors: Sequence[Processor[Any]] = (),
    describe: Describe | None = None,
) -> Trace:
    """Return the trace that an id belongs to.

    - `id` is a correlation id, an event id such as `order-7@3.0`, or a commit such as `order-7@3`.
    - `stores` is a store, or several by name: the services that the trace went through. All of them are open, and
      have lookups, as SQLiteStore, MemoryStore and DynamoDBStore do.
    - `processors` are those that handle commits of these stores: the trace then says what they have not done yet.
    - `describe(commit)` returns a text for each of its events, which the tree and the page show, such as its fields. By
      default they show none of the payload.

    Of each process that has steps, the whole stream is read, for its state: at most MAX_PROCESSES of them.

    A store that cannot be read does not end it: `Trace.failures` names it. At most MAX_STEPS commits of each store are
    returned.

    Raises:
        TraceNotFound: no store has a commit of it.
        TypeError: a store has no lookups, or the id is not a text.
    """
    check_text("the id of a trace", id)
    named = dict(stores) if isinstance(stores, Mapping) else {"store": stores}
    for name, store in named.items():
        if not isinstance(store, Lookup):
            raise TypeError(f"{name} is {type(store).__name__}, which has no lookups: correlated, effects_of")
    failures: list[str] = []
    looked_up: list[str] = []
    trace_id = id
    if (key := parse_identity(identity_of(id))) is not None:
        looked_up.append(f"the commit {key[0]}@{key[1]}")
        commits = [commit for store in named.values() if (commit := await read_commit(store, *key)) is not None]
        trace_id = trace_id_of(commits[0]) if commits else id
    looked_up.append(f"the correlation id {trace_id!r} in {', '.join(named)}")

    async def search(name: str) -> list[Found]:
        found: list[Commit] = []
        try:
            async with aclosing(named[name].correlated(trace_id)) as commits:  # type: ignore[attr-defined]  # a Lookup
                async for commit in commits:
                    if len(found) >= MAX_STEPS:
                        failures.append(f"{name}: only its first {MAX_STEPS:,} commits are shown")
                        break
                    found.append(commit)
        except (StoreError, StoredDataError) as error:
            failures.append(f"{name}: {type(error).__name__}: {error}")
        handled = await _find_handlings(named[name], found, processors, failures)
        return [Found(name, commit, tuple(handled.get(commit.id, ()))) for commit in found]

    found = [each for some in (await load_all(search, named, _AT_ONCE)).values() for each in some]
    if not found:
        raise TraceNotFound(id, looked_up, failures)
    processes = await find_processes(named, found, failures)
    return replace(build_trace(trace_id, found, failures, describe), processes=processes)


async def read_commit(store: Store, stream: str, version: int) -> Commit | None:
    """Return a commit; None if it is missing or cannot be read."""
    try:
        async with aclosing(store.read(stream, after=version - 1, until=version)) as commits:
            return await anext(commits, None)
    except (StoreError, StoredDataError):
        return None


async def _find_handlings(
    store: Store, commits: Sequence[Commit], processors: Sequence[Processor[Any]], failures: list[str]
) -> Mapping[bytes, Sequence[Handling]]:
    """Return what the processors of a store have done with its commits, by commit id."""
    found: dict[bytes, list[Handling]] = {}
    for processor in processors:
        if processor.store is not store:
            continue
        wanted = [commit for commit in commits if processor.projection.wants(commit)]
        streams = list(dict.fromkeys(commit.stream for commit in wanted))
        try:
            positions = await processor.positions(streams)
            parked = {each.stream: each for each in await processor.checkpoints.parked(processor.name, streams)}
            found_skipped = await processor.checkpoints.skipped(processor.name)
            skipped = {(each.stream, each.version): each.reason for each in found_skipped}
        except StoreError as error:
            failures.append(f"{processor.name}: {type(error).__name__}: {error}")
            continue
        for commit in wanted:
            state, stopped = Handling(processor.name, "pending"), parked.get(commit.stream)
            if (reason := skipped.get((commit.stream, commit.version))) is not None:
                state = Handling(processor.name, "skipped", reason)
            elif commit.version <= positions.get(commit.stream, 0):
                state = Handling(processor.name, "done")
            elif stopped is not None and stopped.version == commit.version:
                state = Handling(processor.name, stopped.state, stopped.error, stopped.attempts)
            found.setdefault(commit.id, []).append(state)
    return found
