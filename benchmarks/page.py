"""Write docs/performance.md from the figures of the parts."""

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
        "of the 330 ns of a commit, the decoder takes 245 and the handler 100, as in the bare loop. In addition "
        "cutting the body out of its payload takes 50, the checksum 20, and the check for a command id 20; the bare "
        "loop does the first before it starts. Runs differ by as much: 0.61 to 0.71."
    ),
    "SQLite, saves/s: one task ÷ bare sqlite3": (
        "the transaction itself takes as long as with bare sqlite3. An fsync takes about 0.1 ms on this disk. Passing "
        "the commit to the writer's thread and waking the event loop takes nearly as long (medians: 12 µs to the "
        "thread, 200 µs in the transaction, 72 µs back). Writing in the thread of the event loop would avoid this, but "
        "would stop every other task during the fsync. Tasks that save at the same time share one fsync."
    ),
    "SQLite, saves/s from 64 tasks ÷ the best peer": (
        "so many tasks share fsyncs, so the CPU of a save limits the rate."
    ),
    "SQLite, events/s loading 1,000 ÷ eventsourcing": (
        "half of the time of a load is spent in sqlite3, which converts the columns of a commit to Python values. The "
        "commits take a fifth and the fold an eighth."
    ),
}


def write(parts: Mapping[str, ModuleType], results: Mapping[str, Any], versions: Mapping[str, str]) -> list[Figure]:
    """Write the page and the README's table from the parts that have results. Return the figures that have a goal."""
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

`make bench` measures all figures and writes this page, its plots and `benchmarks/results`. On a fresh clone it also
installs its tools and the other libraries, and takes about a quarter of an hour. Ratios compare the medians of calls
that take turns within one run. Absolute times were measured on one machine
({versions["machine"]}; {machine}).

| figure | measured | goal | met |
|---|---|---|---|
{chr(10).join("| " + " | ".join(row) + " |" for row in rows)}

{_missed(missed)}"""


def _missed(reasons: list[str]) -> str:
    return "\n".join(["Reasons for missed goals:", "", *reasons, ""]) if reasons else ""


def bound(figure: Figure) -> str:
    return f"{'≤' if figure.at_most else '≥'} {figure.goal:g}"
