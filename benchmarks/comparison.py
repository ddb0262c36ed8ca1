"""Compare eventsrc with other libraries: same account, same payloads, same service or same durability."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from eventsrc.local import dynamodb_local

from .counting import CountingProxy, Counts, counting
from .measure import Figure, markdown, median_of
from .peers import DYNAMODB, ENVIRONMENTS, SQLITE, Driver, Peer, Unavailable, driving
from .plots import horizontal, plot

ROUNDS = 5
SAVES = 200
LOADS = {10: 50, 100: 20, 1_000: 5, 10_000: 1}  # loads per round, by the number of commits in the stream
TASKS = (1, 32, 64, 256)
AT_ONCE = 512  # saves of all tasks together
RACERS = 10
OURS = "eventsrc"

Answers = dict[str, list[dict[str, Any]]]


def measure() -> dict[str, Any]:
    return {"sqlite": asyncio.run(_measure(SQLITE)), "dynamodb": asyncio.run(_measure(DYNAMODB))}


async def _measure(peers: tuple[Peer, ...]) -> dict[str, Any]:
    ENVIRONMENTS.mkdir(exist_ok=True)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=ENVIRONMENTS)))
        endpoint, proxy = "", None
        if peers is DYNAMODB:
            endpoint = (await stack.enter_async_context(dynamodb_local())).endpoint_url
            proxy = await stack.enter_async_context(counting(endpoint))
        drivers: dict[Peer, Driver] = {}
        found: dict[str, Any] = {}
        for number, peer in enumerate(peers):
            try:
                driver = await stack.enter_async_context(driving(peer, ENVIRONMENTS / "log"))
            except Unavailable as error:
                print(f"Skipped: {error}", file=sys.stderr)
                continue
            await driver.ask("open", where=endpoint or str(folder / f"{number}.db"))
            drivers[peer] = driver
        for peer, answers in (await _rounds(drivers)).items():
            found[peer.name] = {name: _figures(each) for name, each in answers.items()}
        for peer in drivers:
            if proxy is not None:
                found[peer.name]["counts"] = await _counts(peer, proxy)
    return found


async def _rounds(drivers: dict[Peer, Driver]) -> dict[Peer, Answers]:
    """Return all answers of each peer. In each round the peers run the same command one after the other."""
    answers: dict[Peer, Answers] = {peer: {} for peer in drivers}

    async def ask(peer: Peer, name: str, per: int, do: str, **command: Any) -> None:
        """Send a command and store its answer. `per` is its number of operations."""
        answer = await drivers[peer].ask(do, **command)
        answers[peer].setdefault(name, []).append({"per": per, **answer})

    for peer, driver in drivers.items():
        await driver.ask("save", stream="warm", times=30)
        for length in _lengths(peer):
            await driver.ask("save", stream=f"long-{length}", times=length - 1)
    for number in range(ROUNDS):
        for peer in drivers:
            times = round(SAVES * peer.share)
            await ask(peer, "save", times, "save", stream="warm", times=times)
        for length in LOADS:
            for peer in drivers:
                if length in _lengths(peer):
                    times = max(1, round(LOADS[length] * peer.share))
                    await ask(peer, f"load {length}", times, "load", stream=f"long-{length}", times=times)
        for tasks in TASKS:
            for peer in drivers:
                if tasks <= (saves := round(AT_ONCE * peer.share)):
                    each, streams = saves // tasks, f"at-once-{number}-{tasks}"
                    await ask(
                        peer, f"at once {tasks}", each * tasks, "many", streams=streams, tasks=tasks, times=each - 1
                    )
    for peer in drivers:
        await ask(peer, "race", 1, "race", stream="race", tasks=RACERS, times=peer.races)
        await ask(peer, "snapshot", 1, "snapshot", stream="long-1000")
        times = round(50 * peer.share)
        await ask(peer, "load 1000, snapshot", times, "load", stream="long-1000", times=times)
    return answers


def _lengths(peer: Peer) -> list[int]:
    return [length for length in LOADS if length <= 10_000 * peer.share]


def _figures(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians in ms per operation and the last answer's other fields; or the answer with the error."""
    for answer in answers:
        if "missing" in answer or "error" in answer:
            return answer
    others = {name: value for name, value in answers[-1].items() if name not in ("per", "cpu", "wall")}
    return {
        unit: median_of(answer[unit] / answer["per"] for answer in answers) * 1e3 for unit in ("cpu", "wall")
    } | others


async def _counts(peer: Peer, proxy: CountingProxy) -> dict[str, list[float]]:
    """Return requests, read units and write units per operation, as counted by the proxy."""
    found: dict[str, list[float]] = {}
    async with driving(peer, ENVIRONMENTS / "log") as driver:
        await driver.ask("open", where=proxy.url)
        await driver.ask("save", stream="long", times=99)
        for name, do, times in (("save", "save", 20), ("load", "load", 10)):
            stream = "long" if do == "load" else "saved"
            await driver.ask("save", stream="saved", times=1)
            proxy.counts = Counts()
            await driver.ask(do, stream=stream, times=times)
            counts = proxy.counts
            found[name] = [each / times for each in (counts.requests, counts.read_units, counts.write_units)]
    return found


def section(found: dict[str, Any]) -> str:
    return f"""## Compared with other libraries

Each library runs in an environment and a process of its own. All use the same account, deposits with a memo of 40
characters, and one event per commit. The figures are medians of {ROUNDS} rounds in which the libraries take turns.
`benchmarks/peers.py` pins the versions, and `benchmarks/drivers` shows how each library is used. CPU is the CPU time of
the library's process per operation.

### On SQLite, WAL with `synchronous=FULL`

{_table(found["sqlite"])}

{_lost(found["sqlite"])}

![CPU of a save on SQLite](plots/sqlite.svg)
![CPU of a load of 1,000 on SQLite](plots/sqlite-load.svg)

### On DynamoDB Local

{_table(found["dynamodb"])}

{_lost(found["dynamodb"])}

The next table shows requests, read units and write units of a save and of a load of 100 commits. One proxy counts them
for all libraries. eventsourcing-dynamodb reads with eventual consistency, which costs half the units and may miss the
latest commits. Its saves do not have a condition.

{_counted(found["dynamodb"])}

![CPU of a save on DynamoDB](plots/peers.svg)
![CPU of a load of 1,000 on DynamoDB](plots/peers-load.svg)
"""


def readme(found: dict[str, Any]) -> str:
    """Return the table for the README."""
    rows = []
    for name, figures in found["dynamodb"].items():
        race, counts = figures["race"], figures["counts"]
        lost = race["acknowledged"] - race["stored"] if "acknowledged" in race else 0
        raced = race.get("acknowledged", 0) + race.get("conflicts", 0) + race.get("errors", 0)
        cells = [_cell(figures.get(column)) for column in ("save", "load 100", "load 1000")]
        rows.append([name, *cells, f"{counts['save'][2]:g}", f"{lost:,} of {raced:,}"])
    head = ["on DynamoDB", "save, ms of CPU", "load of 100", "load of 1,000", "write units", "lost when saves race"]
    return markdown(head, rows)


def _table(found: dict[str, Any]) -> str:
    columns = ["save", *(f"load {length}" for length in LOADS), "load 1000, snapshot"]
    head = ["ms of CPU", "save", *(f"load {length:,}" for length in LOADS), "1,000 with snapshot"]
    head += [f"saves/s, {tasks} task{'s' * (tasks > 1)}" for tasks in TASKS]
    rows = []
    for name, figures in found.items():
        cells = [_cell(figures.get(column)) for column in columns]
        if "snapshot" not in figures or "missing" in figures["snapshot"]:
            cells[-1] = "-"
        cells[4] += _found(figures.get("load 10000"), 10_000)
        rates = [_rate(figures.get(f"at once {tasks}")) for tasks in TASKS]
        rows.append([name, *cells, *rates])
    return markdown(head, rows)


def _cell(figure: dict[str, Any] | None) -> str:
    if not figure or "missing" in figure:
        return "-"
    if "error" in figure:
        return "error"
    return f"{figure['cpu']:.3g}"


def _found(figure: dict[str, Any] | None, length: int) -> str:
    """Return a note if a load returned fewer commits than were saved, else an empty string."""
    commits = figure["balance"] + 1 if figure and "balance" in figure else length
    return "" if commits == length else f", finds {commits:,}"


def _rate(figure: dict[str, Any] | None) -> str:
    return f"{1e3 / figure['wall']:,.0f}" if figure and "wall" in figure else "error" if figure else "-"


def _lost(found: dict[str, Any]) -> str:
    """Return the table of races. An update is lost if it was acknowledged and is missing from the balance."""
    lines = [f"{RACERS} tasks save to one account at the same time:", ""]
    rows = []
    for name, figures in found.items():
        race = figures["race"]
        if "acknowledged" not in race:
            rows.append([name, "error", "", "", ""])
            continue
        lost = race["acknowledged"] - race["stored"]
        shown = f"**{lost:,}**" if lost else "0"
        rows.append([name, *(f"{race[key]:,}" for key in ("acknowledged", "conflicts", "errors")), shown])
    return "\n".join([*lines, markdown(["", "acknowledged", "conflicts", "errors", "lost"], rows)])


def _counted(found: dict[str, Any]) -> str:
    rows = [
        [name, *(" / ".join(f"{each:g}" for each in figures["counts"][do]) for do in ("save", "load"))]
        for name, figures in found.items()
    ]
    return markdown(["requests / read / write units", "save", "load of 100"], rows)


def draw(found: dict[str, Any]) -> None:
    for kind, where, name in (("sqlite", "SQLite", "sqlite"), ("dynamodb", "DynamoDB Local", "peers")):
        for part, title in (("save", "a save"), ("load 1000", "a load of 1,000 commits")):
            file = name if part == "save" else f"{name}-load"
            with plot(file, f"CPU of {title}, {where}", "ms", "", height=2.6) as axes:
                values = {peer: f[part]["cpu"] for peer, f in found[kind].items() if "cpu" in f.get(part, {})}
                horizontal(axes, values, "{:.2g}")


def goals(found: dict[str, Any]) -> list[Figure]:
    """Return the figures that have a goal."""
    sqlite, dynamodb = found["sqlite"], found["dynamodb"]
    best = min(figures["at once 64"]["wall"] for name, figures in sqlite.items() if _is_peer(name, figures))
    figures = [
        Figure("SQLite, saves/s from 64 tasks ÷ the best peer", best / sqlite[OURS]["at once 64"]["wall"], 10),
        Figure("SQLite, events/s loading 1,000 ÷ eventsourcing", _ratio(sqlite, "eventsourcing", "wall"), 10),
    ]
    for peer, goal in (("eventsourcing-dynamodb", 8.0), ("aett", 8.0), ("castore (Node)", 1.3)):
        if peer in dynamodb:
            figures.append(Figure(f"DynamoDB, CPU of a load of 1,000: {peer} ÷ ours", _ratio(dynamodb, peer), goal))
    return figures


def _is_peer(name: str, figures: dict[str, Any]) -> bool:
    return name != OURS and "wall" in figures.get("at once 64", {})


def _ratio(found: dict[str, Any], peer: str, unit: str = "cpu") -> float:
    """Return the cost of a load of 1,000 with a peer ÷ the cost with eventsrc."""
    return float(found[peer]["load 1000"][unit] / found[OURS]["load 1000"][unit])
