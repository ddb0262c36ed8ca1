"""Measure cause and effect: what the stamps of a save cost, how fast they are found, and how fast a trace is drawn."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

from support.bank import Account

from eventsrc import Commit, MemoryStore, Repository, SQLiteStore, Store, trace
from eventsrc.tracing import draw_lanes, draw_page, draw_tree, find_trace

from .measure import Cost, Figure, cost, markdown, median_of, median_ratio, quantile

ROUNDS = 15
SAVES = 400  # in each round, to as many streams
COMMITS = 200_000
TRACE = 5  # commits of a trace among them
LOOKUPS = 2_000
STEPS = (10, 1_000, 10_000)
BRANCHES = 7  # steps that each step causes

_STAMPED = "stamped"
_BARE = "not stamped"


def measure() -> dict[str, Any]:
    return {"figures": [asdict(figure) for figure in asyncio.run(_measure())]}


async def _measure() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        async with SQLiteStore(Path(folder) / "saves.db") as sqlite, MemoryStore() as memory:
            found = [*await _saves("memory", memory), *await _saves("SQLite", sqlite)]
        print("  look-ups", file=sys.stderr, flush=True)
        async with SQLiteStore(Path(folder) / "lookups.db") as sqlite:
            found += await _lookups(sqlite)
    print("  pictures", file=sys.stderr, flush=True)
    return found + await _pictures()


async def _saves(name: str, store: Store) -> list[Figure]:
    """Compare the CPU of saves that are stamped, as those of a handler are, and of saves without a trace."""
    accounts, count = Repository(Account, store), 0

    async def save() -> None:
        nonlocal count
        count += 1
        await accounts.save(Account.open(f"a-{count}", owner="ann"))

    stamped = ("request-00000001", "order-00000001@3.0", {"handler": "reserve@1.handle_placed"})
    rounds: list[dict[str, Cost]] = []
    for _ in range(ROUNDS):
        each: dict[str, Cost] = {}
        for kind in (_BARE, _STAMPED):
            with trace(*stamped) if kind == _STAMPED else nullcontext():
                each[kind] = await cost(save, SAVES)
        rounds.append(each)
    ratio = median_ratio(rounds, _STAMPED, _BARE)
    bare = median_of(each[_BARE].cpu for each in rounds) * 1e6
    return [
        Figure(f"CPU of a save on {name}: stamped ÷ not stamped", ratio, 1.03, at_most=True),
        Figure(f"µs of CPU of a save on {name}, not stamped", bare),
    ]


async def _lookups(store: SQLiteStore) -> list[Figure]:
    accounts = Repository(Account, store)

    async def one(number: int) -> None:
        with trace(f"request-{number}"):
            await accounts.save(Account.open(f"a-{number}-0", owner="ann"))
            for step in range(1, TRACE):
                with trace(causation_id=f"account-a-{number}-{step - 1}@1.0"):
                    await accounts.save(Account.open(f"a-{number}-{step}", owner="ann"))

    traces = COMMITS // TRACE
    for start in range(0, traces, 500):
        await asyncio.gather(*(one(number) for number in range(start, start + 500)))
    found = []
    searches: tuple[tuple[str, Callable[[int], AsyncGenerator[Commit]], int], ...] = (
        ("effects_of", lambda number: store.effects_of(f"account-a-{number}-0@1.0"), 1),
        ("correlated", lambda number: store.correlated(f"request-{number}"), TRACE),
    )
    for name, search, count in searches:
        times = []
        for step in range(LOOKUPS):
            start_time = perf_counter()
            seen = [commit async for commit in search(step * 7919 % traces)]
            times.append((perf_counter() - start_time) * 1000)
            assert len(seen) == count
        text = f"ms of a look-up on SQLite at {COMMITS:,} commits, {name}, {count} found"
        found.append(Figure(text, median_of(times), 0.1, at_most=True))
        found.append(Figure(f"{text}, p99", quantile(times, 0.99)))
    return found


async def _pictures() -> list[Figure]:
    found = []
    for steps in STEPS:
        async with MemoryStore() as store:
            accounts = Repository(Account, store)
            for number in range(steps):
                cause = f"account-a-{(number - 1) // BRANCHES}@1.0" if number else None
                with trace("request-1", cause):
                    account = Account.open(f"a-{number}", owner="ann")
                    account.deposit(number % 5)
                    await accounts.save(account)
            start = perf_counter()
            drawn = await find_trace("request-1", store)
            seconds = perf_counter() - start
        assert len(drawn.steps) == steps
        text = f"{steps:,} steps"
        found.append(Figure(f"ms to find a trace of {text}", seconds * 1000))
        pictures: tuple[tuple[str, Callable[[Any], str]], ...] = (
            ("tree", draw_tree),
            ("lanes", draw_lanes),
            ("page", draw_page),
        )
        for name, draw in pictures:
            start = perf_counter()
            size = len(draw(drawn).encode())
            took = perf_counter() - start
            is_largest = steps == STEPS[-1]
            found.append(Figure(f"ms to draw the {name} of {text}", took * 1000))
            goal = 300.0 if name == "page" and is_largest else None
            found.append(Figure(f"kB of the {name} of {text}", size / 1000, goal, at_most=True))
            if name == "lanes" and is_largest:
                found.append(Figure(f"s to find and draw the lanes of {text}", seconds + took, 1, at_most=True))
    return found


def goals(found: dict[str, Any]) -> list[Figure]:
    return [figure for each in found["figures"] if (figure := Figure(**each)).goal is not None]


def section(found: dict[str, Any]) -> str:
    values = {each["name"]: each["value"] for each in found["figures"]}
    rows = [
        [
            f"{steps:,}",
            f"{values[f'ms to find a trace of {steps:,} steps']:.1f}",
            *(
                f"{values[f'ms to draw the {name} of {steps:,} steps']:.1f}, "
                f"{values[f'kB of the {name} of {steps:,} steps']:.0f}"
                for name in ("tree", "lanes", "page")
            ),
        ]
        for steps in STEPS
    ]
    others = [[name, f"{value:.3g}"] for name, value in values.items() if "steps" not in name]
    return f"""## Cause and effect

A save that is stamped has a correlation id, a cause and the name of a handler, as what a processor's handler commits.
Saves took turns, {ROUNDS} rounds of {SAVES}. Each step of a trace causes {BRANCHES} others, and has two events.

{markdown(["figure", "measured"], others)}

{markdown(["steps", "find, ms", "tree: ms, kB", "lanes: ms, kB", "page: ms, kB"], rows)}
"""


def draw(found: dict[str, Any]) -> None:
    """Draw nothing: this part has no plots."""
