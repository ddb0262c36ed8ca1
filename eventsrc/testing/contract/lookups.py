"""The promises of lookups: the commits of a trace, and the effects of an event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from ...store import Commit, Store
from ...stores.causes import Lookup
from .check import PATIENCE, Capability, MakeStore, expect, expect_equal, make_checks
from .samples import ALL_SORTS, expect_same_commit, fresh_stream, make_commit

_PAUSE = 0.02  # seconds between lookups in an index that is eventually consistent


async def a_trace_is_found(make_store: MakeStore) -> None:
    """A lookup by correlation id returns all commits that have it, of any stream, and no others, oldest first."""
    async with make_store() as store:
        one, other = fresh_stream(), fresh_stream()
        wanted, alike = f"{one} trace", f"{one} trace1"
        commits = [
            make_commit(one, 1, correlation_id=wanted),
            make_commit(other, 1, correlation_id=alike),
            make_commit(other, 2, correlation_id=wanted, causation_ids=(f"{one}@1.0",), metadata={"actor": "ann"}),
            make_commit(other, 3),
            make_commit(one, 2, correlation_id=wanted, command_id="c-1"),
        ]
        await _append(store, commits)
        await _expect_found(lambda: _lookup(store).correlated(wanted), [commits[0], commits[2], commits[4]])
        await _expect_found(lambda: _lookup(store).correlated(alike), [commits[1]])
        await _expect_found(lambda: _lookup(store).correlated(wanted[:-1]), [])


async def a_commit_that_starts_a_trace_is_found(make_store: MakeStore) -> None:
    """The identity of a commit without a correlation id finds it, and the commits that have it as correlation id."""
    async with make_store() as store:
        stream = fresh_stream()
        commits = [make_commit(stream, version) for version in range(1, 11)]
        commits.append(make_commit(stream, 11, correlation_id=f"{stream}@1"))
        commits.append(make_commit(stream, 12, correlation_id="another"))
        await _append(store, commits)
        await _expect_found(lambda: _lookup(store).correlated(f"{stream}@1"), [commits[0], commits[10]])
        await _expect_found(lambda: _lookup(store).correlated(f"{stream}@10"), [commits[9]])
        for nothing in ("0", "01", "11", "12", "99", "1.0", ""):
            await _expect_found(lambda nothing=nothing: _lookup(store).correlated(f"{stream}@{nothing}"), [])  # type: ignore[misc]


async def any_correlation_id_is_found(make_store: MakeStore) -> None:
    """Long texts and any characters can be correlation ids, and are found unchanged; an empty one counts as none."""
    async with make_store() as store:
        stream = fresh_stream()
        ids = [f"{stream}{ALL_SORTS}", f"{stream}%", f"{stream}_", "x" * 2048 + stream, stream * 40, f"{stream}|@1"]
        commits = [make_commit(stream, version, correlation_id=id) for version, id in enumerate(ids, 1)]
        commits.append(make_commit(stream, len(ids) + 1, correlation_id=""))
        await _append(store, commits)
        for id, commit in zip(ids, commits, strict=False):
            await _expect_found(lambda wanted=id: _lookup(store).correlated(wanted), [commit])  # type: ignore[misc]
        await _expect_found(lambda: _lookup(store).correlated(""), [])
        await _expect_found(lambda: _lookup(store).correlated(f"{stream}@{len(commits)}"), commits[-1:])


async def effects_are_found(make_store: MakeStore) -> None:
    """A lookup by cause returns each commit that an event has caused once; the id of a commit stands for its events."""
    async with make_store() as store:
        one, other = fresh_stream(), fresh_stream()
        trace = f"{one}@1"
        commits = [
            make_commit(one, 1, events=11),
            make_commit(other, 1, correlation_id=trace, causation_ids=(f"{one}@1.0", f"{one}@1.1")),
            make_commit(other, 2, correlation_id=trace, causation_ids=(f"{one}@1.1", f"{one}@1.1")),
            make_commit(other, 3, correlation_id=trace, causation_ids=(f"{one}@1.10", f"{one}@1.0.1")),
            make_commit(other, 4, correlation_id=trace, causation_ids=(f"{one}@10.0", f"{one}@11.0")),
            make_commit(other, 5, correlation_id=trace, causation_ids=(f"{other}@1.0", f"{one}@1", "a message")),
            make_commit(one, 2, correlation_id=trace, causation_ids=(f"{other}@1.0", f"{one}@1.0")),
            make_commit(f"{one}@1.5", 1, correlation_id=trace),
            make_commit(other, 6, correlation_id=trace, causation_ids=(f"{one}@1.5@1.0", f"{one}@1.x", f"{one}\0@1.0")),
        ]
        await _append(store, commits)
        for cause, expected in (
            (f"{one}@1.0", [1, 6]),
            (f"{one}@1.1", [1, 2]),
            (f"{one}@1.10", [3]),
            (f"{one}@1.0.1", [3]),
            (f"{one}@1", [1, 2, 3, 5, 6]),
            (f"{other}@1.0", [5, 6]),
            (f"{other}@1", [5, 6]),
            (f"{one}@2.0", []),
            (f"{one}@1.5@1", [8]),
            (f"{one}@1.x", [8]),
            (f"{one}\0@1.0", [8]),
        ):
            effects = [commits[number] for number in expected]
            await _expect_found(lambda cause=cause: _lookup(store).effects_of(cause), effects)  # type: ignore[misc]
            await _expect_found(
                lambda cause=cause: _lookup(store).effects_of(cause, correlation_id=trace),  # type: ignore[misc]
                effects,
            )
        await _expect_found(lambda: _lookup(store).effects_of(commits[0].event_id(0)), [commits[1], commits[6]])
        await _expect_found(lambda: _lookup(store).effects_of("a message", correlation_id=trace), [commits[5]])


async def a_large_trace_is_found(make_store: MakeStore) -> None:
    """A trace of more than a megabyte is found completely, and a lookup can be stopped at any commit."""
    async with make_store() as store:
        stream = fresh_stream()
        payload = bytes(300_000)
        commits = [
            make_commit(stream, version, payload=payload, correlation_id=stream, causation_ids=(f"{stream}-x@7.0",))
            for version in range(1, 8)
        ]
        await _append(store, commits)
        await _expect_found(lambda: _lookup(store).correlated(stream), commits)
        await _expect_found(lambda: _lookup(store).effects_of(f"{stream}-x@7.0", correlation_id=stream), commits)
        async with aclosing(_lookup(store).correlated(stream)) as found:
            expect_same_commit(await anext(found), commits[0], "found first")


def _lookup(store: Store) -> Lookup:
    expect(isinstance(store, Lookup), "the store has no lookups: correlated, effects_of")
    assert isinstance(store, Lookup)
    return store


async def _append(store: Store, commits: Sequence[Commit]) -> None:
    for commit in commits:
        await store.append(commit)


async def _expect_found(look_up: Callable[[], AsyncGenerator[Commit]], expected: Sequence[Commit]) -> None:
    """Check that a lookup finds these commits. An index may be updated some moments later."""
    ids: list[bytes] = []
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE / 4
    while True:
        async with aclosing(look_up()) as commits:
            found = [commit async for commit in commits]
        ids = [commit.id for commit in found]
        if len(ids) >= len(expected) or loop.time() > end:
            break
        await asyncio.sleep(_PAUSE)
    names = {commit.id: f"{commit.stream}@{commit.version}" for commit in (*expected, *found)}
    expect_equal([names[id] for id in ids], [names[commit.id] for commit in expected], "commits found")
    for commit, original in zip(found, expected, strict=True):
        expect_same_commit(commit, original, "found by a lookup")


CHECKS = make_checks(
    a_trace_is_found,
    a_commit_that_starts_a_trace_is_found,
    any_correlation_id_is_found,
    effects_are_found,
    a_large_trace_is_found,
    needs=Capability.FINDS_CAUSES,
)
