"""Measure eventsrc alone: import, fold, bounds of snapshots, SQLite, and the CPU of a request."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from support.bank import Account
from support.tables import fresh_name, store_on

from eventsrc import Repository, SnapshotPolicy
from eventsrc.local import dynamodb_local

from . import fold, importing, limit, snapshots, sqlite
from .counting import Counts, counting
from .measure import Figure, markdown
from .plots import horizontal, plot

PARTS = (importing, fold, snapshots, sqlite, limit)


def measure() -> dict[str, Any]:
    figures = [*(figure for part in PARTS for figure in part.figures()), *asyncio.run(_requests())]
    return {"figures": [asdict(figure) for figure in figures]}


async def _requests() -> list[Figure]:
    """Count the requests of each call in a proxy."""
    async with dynamodb_local() as local, counting(local.endpoint_url) as proxy:
        async with store_on(proxy.url, fresh_name()) as store:
            await store.create_table()
            ours, theirs = (Repository(Account, store, snapshots=SnapshotPolicy(inline=True)) for _ in range(2))
            account = Account.open("a-1", owner="ann")
            await ours.save(account)
            await ours.execute("a-1", Account.deposit, 1)
            account = await ours.load("a-1")
            account.deposit(1)
            await ours.save(Account.open("own", owner="ann"))  # which nobody else writes
            await ours.execute("own", Account.deposit, 1)
            found = []
            for name, call, goal in (
                ("save", lambda: ours.save(account), 1),
                ("cold load", lambda: theirs.load("a-1"), 1),
                ("execute after one conflict", lambda: ours.execute("a-1", Account.deposit, 1), 2),
                ("warm execute", lambda: ours.execute("own", Account.deposit, 1), 1),
            ):
                proxy.counts = Counts()
                await call()
                found.append(Figure(f"requests: {name}", proxy.counts.requests, goal, at_most=True))
        return found


def goals(found: dict[str, Any]) -> list[Figure]:
    return [figure for each in found["figures"] if (figure := Figure(**each)).goal is not None]


def section(found: dict[str, Any]) -> str:
    values = {each["name"]: each["value"] for each in found["figures"]}
    calls = [name.removeprefix("ms of CPU: ") for name in values if name.startswith("ms of CPU: ")]
    rows = [[_bold(call), f"{values[f'ms of CPU: {call}']:.3f}", f"{values[f'ms: {call}']:.2f}"] for call in calls]
    others = [
        [f.name, f"{f.value:,.0f}" if f.value >= 100 else f"{f.value:.2f}"]
        for each in found["figures"]
        if (f := Figure(**each)).goal is None and not f.name.startswith("ms")
    ]
    return f"""## Compared with bare calls

A save is `repository.save` of one deposit. A load is `repository.load`, including all checks and the fold. The bare
calls are programs by hand over the SDK (aiobotocore), aiodynamo, and an unsigned POST over aiohttp. A bare put sends
the same item, and does not look at the answer. A bare load asks for the payloads only, decodes the events with msgspec
and applies them. {limit.TURNS} streams take turns. The figures are medians of {limit.ROUNDS} rounds in one process.

![CPU of a save compared with bare calls](plots/limit.svg)

{markdown(["one call", "ms of CPU", "ms"], rows)}

{markdown(["figure", "measured"], others)}
"""


def readme(found: dict[str, Any]) -> dict[str, str]:
    """Return the figures in the README's text."""
    values = {each["name"]: each["value"] for each in found["figures"]}
    shares = {
        "save": values["CPU: save ÷ put by the SDK"],
        "fold": values["fold, 1 event(s) a commit ÷ bare msgspec decode and dict dispatch"],
    }
    return {name: f"{share:.0%}" for name, share in shares.items()}


def _bold(call: str) -> str:
    """Show calls of eventsrc in bold."""
    return call if call.startswith(("put", "bare")) else f"**{call}**"


def draw(found: dict[str, Any]) -> None:
    values = {each["name"].removeprefix("ms of CPU: "): each["value"] for each in found["figures"]}
    with plot("limit", "CPU of a save on DynamoDB, compared with bare calls", "ms", "", height=2.4) as axes:
        shown = {"save": "eventsrc: save", "warm execute": "eventsrc: warm execute"}
        for name in ("put by an unsigned POST", "put by aiodynamo", "put by the SDK"):
            shown[name] = name.replace("put by", "bare put by")
        horizontal(axes, {label: values[name] for name, label in shown.items()})
