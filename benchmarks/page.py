"""docs/performance.md, from what the parts have measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from .measure import Figure

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
README = Path(__file__).parents[1] / "README.md"

_WHY = {
    "fold, 1 event(s) a commit ÷ bare msgspec decode and dict dispatch": (
        "of a commit's 330 ns, 245 are the decoder, 100 the handler, as in the bare loop, whose bodies are cut out of "
        "their payloads beforehand; here that is 50, the checksum 20, a look for a command id 20. What is missing is "
        "within the spread of the runs, 0.67 to 0.71."
    ),
    "SQLite, saves/s: one task ÷ bare sqlite3": (
        "the transaction itself takes as long as bare sqlite3's. An fsync takes about 0.1 ms on this disk; handing the "
        "commit to the writer's thread and waking the event loop again takes nearly as much (in medians 12 µs to the "
        "thread, 200 µs in the transaction, 72 µs back). Writing in the loop's own thread would "
        "save that, and stop every other task while the disk works. Tasks that save at the same time share one fsync."
    ),
    "SQLite, saves/s from 64 tasks ÷ the best peer": (
        "from that many tasks fsyncs are shared, and what bounds the rate is the CPU of a save."
    ),
    "SQLite, events/s loading 1,000 ÷ eventsourcing": (
        "half of the time of a load is sqlite3 making Python values of the columns that a commit has, a fifth the "
        "commits, an eighth the fold."
    ),
}


def write(parts: Mapping[str, ModuleType], results: Mapping[str, Any], versions: Mapping[str, str]) -> list[Figure]:
    """Write the page from what there is, and the README's table; returns the figures that have a goal."""
    known = {name: part for name, part in parts.items() if name in results}
    figures = [figure for name, part in known.items() if hasattr(part, "goals") for figure in part.goals(results[name])]
    sections = [part.section(results[name]) for name, part in known.items()]
    PAGE.write_text("\n".join([_head(figures, versions), *sections]).rstrip() + "\n")
    for name, part in known.items():
        if hasattr(part, "readme"):
            before, mark, rest = README.read_text().partition(f"<!-- {name} -->\n")
            _, end, after = rest.partition(f"<!-- /{name} -->")
            README.write_text(f"{before}{mark}{part.readme(results[name])}\n{end}{after}")
    return figures


def _head(figures: list[Figure], versions: Mapping[str, str]) -> str:
    rows = [[figure.name, f"{figure.value:,.3g}", bound(figure), "yes" if figure.met else "no"] for figure in figures]
    missed = [f"- {figure.name}: {_WHY.get(figure.name, 'not explained yet')}" for figure in figures if not figure.met]
    machine = ", ".join(f"{name} {version}" for name, version in versions.items() if name != "machine")
    return f"""# Performance

`make bench` measures all of this and writes this page, its plots and `benchmarks/results`. On a fresh clone it prepares
what it needs, other libraries included, and takes about a quarter of an hour. Ratios are taken inside one run, between
calls that take turns; what is compared is the median. Absolute times are those of one
machine ({versions["machine"]}; {machine}).

| figure | measured | goal | met |
|---|---|---|---|
{chr(10).join("| " + " | ".join(row) + " |" for row in rows)}

{_missed(missed)}"""


def _missed(reasons: list[str]) -> str:
    return "\n".join(["Why a goal was missed:", "", *reasons, ""]) if reasons else ""


def bound(figure: Figure) -> str:
    return f"{'≤' if figure.at_most else '≥'} {figure.goal:g}"
