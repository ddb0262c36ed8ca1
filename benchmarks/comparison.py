"""Compare eventsrc with other libraries, each at its best: same account, same payloads, same service or durability."""

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

Peers = tuple[Peer, ...]

ROUNDS = 5
SAVES = 200  # in a round
SAVED = tuple(f"saved-{number}" for number in range(8))  # streams of these saves
WARM_UP = 200
"""Saves, and loads of 1,000, of each library before the clock starts. V8 compiles what is called often; after about as
many loads the CPU of one with castore is steady."""

LOADS = {10: (50, 16), 100: (20, 8), 1_000: (10, 4), 4_000: (2, 2), 10_000: (2, 2)}
"""By the number of commits in a stream: loads in a round, and the streams that take turns in them."""
LONGEST: dict[Peers, int] = {SQLITE: 10_000, DYNAMODB: 4_000}  # DynamoDB takes long to fill

WORKERS = (1, 2, 4, 8, 16, 32, 64)
"""Threads or tasks that save at the same time, of which each library is shown with its best number."""
ACCOUNTS = 64  # that these save, each worker its share
AT_ONCE: dict[Peers, int] = {SQLITE: 512, DYNAMODB: 256}  # saves of all workers together
AT_ONCE_ROUNDS = 3

RACERS = 10
OURS = "eventsrc"

Answers = dict[str, list[dict[str, Any]]]


def measure() -> dict[str, Any]:
    return {"sqlite": asyncio.run(_measure(SQLITE)), "dynamodb": asyncio.run(_measure(DYNAMODB))}


async def _measure(peers: Peers) -> dict[str, Any]:
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
            answer = await driver.ask("open", where=endpoint or str(folder / f"{number}.db"))
            drivers[peer] = driver
            found[peer.name] = {"runs on": answer["runs_on"]}
        for peer, answers in (await _rounds(peers, drivers)).items():
            found[peer.name] |= {name: _figures(each) for name, each in answers.items()}
        for peer in drivers:
            _log(f"counting the requests of {peer.name}", proxy is not None)
            if proxy is not None:
                found[peer.name]["counts"] = await _counts(peer, proxy)
    return found


async def _rounds(peers: Peers, drivers: dict[Peer, Driver]) -> dict[Peer, Answers]:
    """Return all answers of each peer. In each round the peers run the same command one after the other."""
    answers: dict[Peer, Answers] = {peer: {} for peer in drivers}

    async def ask(peer: Peer, name: str, per: int, do: str, **command: Any) -> None:
        """Send a command and store its answer. `per` is its number of operations."""
        answer = await drivers[peer].ask(do, **command)
        answers[peer].setdefault(name, []).append({"per": per, **answer})

    def lengths(peer: Peer) -> list[int]:
        return [length for length in LOADS if length <= min(LONGEST[peers], 40_000 * peer.share)]

    async def fill(peer: Peer) -> None:
        for length in lengths(peer):
            streams = _long(length)
            await drivers[peer].ask("save", streams=streams, times=len(streams) * (length - 1))

    _log("filling the stores")
    await asyncio.gather(*map(fill, drivers))
    for peer, driver in drivers.items():
        _log(f"warming up {peer.name}")
        times = max(1, round(WARM_UP * peer.share))
        await driver.ask("save", streams=SAVED, times=times)
        await driver.ask("load", streams=_long(min(1_000, lengths(peer)[-1])), times=times)
    for number in range(ROUNDS):
        _log(f"round {number + 1} of {ROUNDS}")
        for peer in drivers:
            times = max(1, round(SAVES * peer.share))
            await ask(peer, "save", times, "save", streams=SAVED, times=times)
        for length in LOADS:
            for peer in drivers:
                if length in lengths(peer):
                    times = max(1, round(LOADS[length][0] * peer.share))
                    await ask(peer, f"load {length}", times, "load", streams=_long(length), times=times)
        for workers in WORKERS if number < AT_ONCE_ROUNDS else ():
            for peer in drivers:
                accounts = max(16, round(ACCOUNTS * peer.share))
                if workers <= accounts:
                    each = max(1, round(AT_ONCE[peers] * peer.share / accounts))
                    command = {"accounts": accounts, "workers": workers, "times": each}
                    streams = f"at-once-{number}-{workers}"
                    await ask(peer, f"at once {workers}", accounts * each, "many", streams=streams, **command)
    for peer in drivers:
        _log(f"races and snapshots of {peer.name}")
        await ask(peer, "race", 1, "race", stream="race", tasks=RACERS, times=peer.races)
        if 1_000 in lengths(peer):
            await ask(peer, "snapshot", 1, "snapshot", streams=_long(1_000))
            times = max(1, round(50 * peer.share))
            await ask(peer, "load 1000, snapshot", times, "load", streams=_long(1_000), times=times)
    return answers


def _long(length: int) -> list[str]:
    return [f"long-{length}-{number}" for number in range(LOADS[length][1])]


def _log(doing: str, condition: bool = True) -> None:
    if condition:
        print(f"  {doing}", file=sys.stderr, flush=True)


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
        await driver.ask("save", streams=["long"], times=99)
        for name, do, times in (("save", "save", 20), ("load", "load", 10)):
            stream = "long" if do == "load" else "saved"
            await driver.ask("save", streams=["saved"], times=1)
            proxy.counts = Counts()
            await driver.ask(do, streams=[stream], times=times)
            counts = proxy.counts
            found[name] = [each / times for each in (counts.requests, counts.read_units, counts.write_units)]
    return found


def preface(found: dict[str, Any]) -> str:
    """Return how each library was given its best, for the top of the page."""
    runs_on = [figures["runs on"] for part in found.values() for figures in part.values()]
    python = ", ".join(sorted({each for each in runs_on if each.startswith("Python")}))
    node = ", ".join(sorted({each for each in runs_on if not each.startswith("Python")}))
    expected = {peer.name for peer in (*SQLITE, *DYNAMODB)}
    left_out = sorted(expected - {name for part in found.values() for name in part})
    missing = f" Not measured, as no interpreter for them was found: {', '.join(left_out)}." if left_out else ""
    best = "; ".join(
        f"{name}: {workers}"
        for name, figures in found["sqlite"].items()
        if name != OURS and (workers := _best(figures)[0])
    )
    return f"""How each library and each bare loop was given its best:

- **Threads and tasks.** A rate of saves is the best one of {_join(WORKERS)} threads, or tasks
  of an asynchronous library, each with its share of the same accounts. Threads call the library directly: no event loop
  is between them. The tables show the number. On SQLite the best were {best}.
  eventsrc is compared at {ACCOUNTS} tasks.
- **Warm.** Before the clock starts, each library saves {WARM_UP} times and loads 1,000 commits {WARM_UP} times: then V8
  has compiled castore ({node}). aett, async, does a share of that: a save with it takes longest.
- **Streams take turns.** Saves and loads go round several streams, those of the bare loops too, so no library reads
  again what it has just read.
- **One interpreter.** All Python libraries, and eventsrc next to them, ran on the same one:
  {python}.{missing}
- **Durability and settings.** SQLite files are in WAL mode with `synchronous=FULL`, also for a library that leaves this
  to its user. `benchmarks/drivers` shows how each library is used: as its documentation says.
- **Bare loops** read only the columns that their answer needs, from tables of their own, check nothing, decode with
  msgspec into the same classes and call the same handlers. Goals are ratios to them in the same run, not rates.
- **Exactly once.** Projections are measured with one statement for each event, and with one for several; so are their
  bare loops.
"""


def _join(values: tuple[int, ...]) -> str:
    return f"{', '.join(map(str, values[:-1]))} and {values[-1]}"


def section(found: dict[str, Any]) -> str:
    return f"""## Compared with other libraries

Each library runs in an environment and a process of its own. All use the same account, deposits with a memo of 40
characters, and one event per commit. The figures are medians of {ROUNDS} rounds in which the libraries take turns;
those of saves at the same time, of {AT_ONCE_ROUNDS}. `benchmarks/peers.py` pins the versions. CPU is the CPU time of
the library's process per operation. *Best* is the highest rate of saves, and the threads or tasks that reached it.

### On SQLite, WAL with `synchronous=FULL`

{_table(found["sqlite"], LONGEST[SQLITE])}

{_lost(found["sqlite"])}

![CPU of a save on SQLite](plots/sqlite.svg)
![CPU of a load of 1,000 on SQLite](plots/sqlite-load.svg)

### On DynamoDB Local

{_table(found["dynamodb"], LONGEST[DYNAMODB])}

{_lost(found["dynamodb"])}

The next table shows requests, read units and write units of a save and of a load of 100 commits. One proxy counts them
for all libraries. eventsourcing-dynamodb reads with eventual consistency, which costs half the units and may miss the
latest commits. Its saves do not have a condition.

{_counted(found["dynamodb"])}

![CPU of a save on DynamoDB](plots/peers.svg)
![CPU of a load of 1,000 on DynamoDB](plots/peers-load.svg)
"""


def readme(found: dict[str, Any]) -> dict[str, str]:
    """Return the table of the README."""
    rows = []
    for name, figures in found["dynamodb"].items():
        race, counts = figures["race"], figures["counts"]
        lost = race["acknowledged"] - race["stored"] if "acknowledged" in race else 0
        raced = race.get("acknowledged", 0) + race.get("conflicts", 0) + race.get("errors", 0)
        cells = [_cell(figures.get(column)) for column in ("save", "load 100", "load 1000")]
        rows.append([name, *cells, f"{counts['save'][2]:g}", f"{lost:,} of {raced:,}"])
    head = ["on DynamoDB", "save, ms of CPU", "load of 100", "load of 1,000", "write units", "lost when saves race"]
    return {"comparison": f"\n{markdown(head, rows)}\n"}


def _table(found: dict[str, Any], longest: int) -> str:
    lengths = [length for length in LOADS if length <= longest]
    columns = ["save", *(f"load {length}" for length in lengths), "load 1000, snapshot"]
    head = ["ms of CPU", "save", *(f"load {length:,}" for length in lengths), "1,000 with snapshot"]
    head += ["saves/s, 1 worker", "best (workers)", f"{ACCOUNTS} workers"]
    rows = []
    for name, figures in found.items():
        cells = [_cell(figures.get(column)) for column in columns]
        if "snapshot" not in figures or "missing" in figures["snapshot"]:
            cells[-1] = "-"
        for place, length in enumerate(lengths, 1):
            cells[place] += _found(figures.get(f"load {length}"), length)
        workers, wall = _best(figures)
        best = f"{1e3 / wall:,.0f} ({workers})" if workers else "error"
        rates = [_rate(figures.get("at once 1")), best, _rate(figures.get(f"at once {ACCOUNTS}"))]
        rows.append([name, *cells, *rates])
    return markdown(head, rows)


def _best(figures: dict[str, Any]) -> tuple[int, float]:
    """Return the number of workers that saved fastest, and the ms of a save then; 0 if none did."""
    walls = [
        (each["wall"], workers) for workers in WORKERS if "wall" in (each := figures.get(f"at once {workers}", {}))
    ]
    wall, workers = min(walls, default=(float("inf"), 0))
    return workers, wall


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
    best = min(_best(figures)[1] for name, figures in sqlite.items() if name != OURS)
    ours = sqlite[OURS][f"at once {ACCOUNTS}"]["wall"]
    figures = [
        Figure(f"SQLite, saves/s from {ACCOUNTS} tasks ÷ the best peer at its best", best / ours, 5),
        Figure("SQLite, events/s loading 1,000 ÷ eventsourcing", _ratio(sqlite, "eventsourcing", "wall"), 10),
    ]
    for peer, goal in (("eventsourcing-dynamodb", 8.0), ("aett", 8.0), ("castore (Node)", 1.5)):
        if peer in dynamodb:
            figures.append(Figure(f"DynamoDB, CPU of a load of 1,000: {peer} ÷ ours", _ratio(dynamodb, peer), goal))
    return figures


def _ratio(found: dict[str, Any], peer: str, unit: str = "cpu") -> float:
    """Return the cost of a load of 1,000 with a peer ÷ the cost with eventsrc."""
    return float(found[peer]["load 1000"][unit] / found[OURS]["load 1000"][unit])
