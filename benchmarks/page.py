"""Write docs/performance.md from the figures of the parts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from .measure import Figure

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
README = Path(__file__).parents[1] / "README.md"

_WHY = {
    "import eventsrc ÷ import asyncio, CPU": (
        "a third of the time is msgspec with what it imports. The largest of this library's own modules declare the "
        "types that states and events may have, and the errors; a program that declares an aggregate needs them."
    ),
    "fold, 1 event(s) a commit ÷ bare msgspec decode and dict dispatch": (
        "the decoder and the handler take as long as in the bare loop. In addition the fold cuts each body out of its "
        "payload, which the bare loop does before it starts, compares checksums, and looks for a command id."
    ),
    "SQLite, saves/s: 64 tasks ÷ one task": (
        "one task waits for the disk, and 64 share its fsyncs until the CPU of a save limits them: the ratio is lower, "
        "the faster the disk is for its processor."
    ),
    "SQLite, saves/s: one task ÷ bare sqlite3": (
        "the transaction itself takes as long as with bare sqlite3. Passing the commit to the writer's thread and "
        "waking the event loop comes on top: two switches between threads, which take more CPU than the rest of the "
        "save where system calls are slow. Writing in the thread of the event loop would avoid this, but would stop "
        "every other task during the fsync. Tasks that save at the same time share one fsync."
    ),
    "SQLite, events/s: load of 1,000 ÷ bare loop": (
        "the bare loop reads one column of each row. A load reads all that a commit has, and checks it."
    ),
    "SQLite, saves/s from 64 tasks ÷ the best peer at its best": (
        "so many tasks share fsyncs, so the CPU of a save limits the rate, while the peer waits for its disk: the "
        "ratio is lower, the faster the disk is for its processor. Three fifths of the CPU are in the event loop, "
        "which records, encodes, checks and waits, two fifths in the writer's thread, which runs SQL, and the "
        "interpreter lets only one of them run."
    ),
    "SQLite, events/s loading 1,000 ÷ eventsourcing": (
        "most of the time of a load is spent in sqlite3, which converts the columns of a commit to Python values."
    ),
    "CPU: load of 1,000 ÷ bare load of 1,000 by the SDK": (
        "the bare load asks for one attribute of each item. A load receives all attributes of a commit, which takes "
        "two fifths of its time, and checks them and makes the commits, which takes as long again."
    ),
    "events/s of CPU, SQLite to memory, 1 event a commit ÷ a bare loop": (
        "reading alone takes as long as the bare loop in all, as it makes whole commits. Of the rest, two thirds, a "
        "quarter is the order of each stream and its position, a quarter the call with its context and its cause, for "
        "the stamps of what the handler commits; half, decoding and the handler, is in the bare loop too."
    ),
    "CPU of a save on SQLite: stamped ÷ not stamped": (
        "a stamped commit adds an entry to the index of correlation ids, and one to the table of effects. In memory, "
        "where these are dictionaries, the stamps cost less than the goal."
    ),
    **dict.fromkeys(
        (
            "ms of a look-up on SQLite at 200,000 commits, effects_of, 1 found",
            "ms of a look-up on SQLite at 200,000 commits, correlated, 5 found",
        ),
        "the query by its index, with the commits that it makes, takes 16 to 20 µs. The rest is passing the call to a "
        "reader's thread and back, which every load does, and which takes 0.1 ms on this machine.",
    ),
    "DynamoDB, CPU of a load of 1,000: castore (Node) ÷ ours": (
        "a warm V8 parses JSON and folds in compiled code. Most of the time of both is spent on decoding the response."
    ),
}


def write(parts: Mapping[str, ModuleType], results: Mapping[str, Any], versions: Mapping[str, str]) -> list[Figure]:
    """Write the page and the README's table from the parts that have results. Return the figures that have a goal."""
    known = {name: part for name, part in parts.items() if name in results}
    figures = [figure for name, part in known.items() if hasattr(part, "goals") for figure in part.goals(results[name])]
    sections = [part.section(results[name]) for name, part in known.items()]
    prefaces = [part.preface(results[name]) for name, part in known.items() if hasattr(part, "preface")]
    PAGE.write_text("\n".join([_head(figures, prefaces, versions), *sections]).rstrip() + "\n")
    for name, part in known.items():
        if hasattr(part, "readme"):
            for place, text in part.readme(results[name]).items():
                between = re.compile(f"(?<=<!-- {place} -->).*?(?=<!-- /{place} -->)", re.DOTALL)
                found = between.sub(lambda _, text=text: text, README.read_text())  # type: ignore[misc]  # the default
                README.write_text(found)
    return figures


def _head(figures: list[Figure], prefaces: list[str], versions: Mapping[str, str]) -> str:
    rows = [[figure.name, f"{figure.value:,.3g}", bound(figure), "yes" if figure.met else "no"] for figure in figures]
    missed = [f"- {figure.name}: {_WHY.get(figure.name, 'not explained yet')}" for figure in figures if not figure.met]
    machine = ", ".join(f"{name} {version}" for name, version in versions.items() if name != "machine")
    return f"""# Performance

`make bench` measures all figures and writes this page, its plots and `benchmarks/results`. On a fresh clone it also
installs its tools and the other libraries. It takes about a quarter of an hour on two quiet cores;
`PYTHONPATH=tests .venv/bin/python -m benchmarks reading` measures one part of it. Ratios compare the medians of calls
that take turns within one run. Absolute times were measured on one machine
({versions["machine"]}; {machine}).

{"".join(f"{each}{chr(10)}" for each in prefaces)}| figure | measured | goal | met |
|---|---|---|---|
{chr(10).join("| " + " | ".join(row) + " |" for row in rows)}

{_missed(missed)}"""


def _missed(reasons: list[str]) -> str:
    return "\n".join(["Reasons for missed goals:", "", *reasons, ""]) if reasons else ""


def bound(figure: Figure) -> str:
    return f"{'≤' if figure.at_most else '≥'} {figure.goal:g}"
