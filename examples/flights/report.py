"""The tables that the demo prints."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from datetime import datetime

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from eventsrc import Event, Repository, tag_of

from .aircraft import LATE_MINUTES, Aircraft, Arrived, Contradicted, Delayed, Departed, Scheduled
from .survey import Survey
from .table import NEW_YORK, Delays, Totals, read_airlines

_LABELS = {
    "delays": f"departures {LATE_MINUTES}+ minutes late",
    "delay_minutes": "minutes of these delays",
    "air_minutes": "hours in the air",
    "miles": "miles of legs that arrived",
}


def progress_bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
    )


def summary_table(where: str, survey: Survey, saved: int, seconds: float) -> Table:
    table = _table("The import", "", ">")
    table.show_header = False
    table.add_row("store", where)
    table.add_row("aircraft", f"{survey.totals.aircraft:,}")
    table.add_row("flights, one commit each", f"{survey.replayed.commits:,}")
    table.add_row("events", f"{survey.events:,}")
    table.add_row("bytes of commits", f"{survey.replayed.bytes:,}")
    table.add_row("saved by this run", f"{saved:,} commits")
    table.add_row("time", f"{seconds:.1f} s")
    if saved:
        table.add_row("rate", f"{saved / seconds:,.0f} commits/s")
    return table


def busiest_table(survey: Survey) -> Table:
    airlines = read_airlines()
    table = _table("Busiest aircraft", "tail", "airline", ">legs", ">hours", ">miles", ">late", ">cancelled", "at")
    for plane in survey.busiest:
        assert plane.leg is not None
        table.add_row(
            plane.id,
            airlines.get(plane.leg.carrier, plane.leg.carrier),
            f"{plane.legs}",
            _hours(plane.air_minutes),
            f"{plane.miles:,}",
            f"{plane.delays}",
            f"{plane.cancellations}",
            _position(plane),
        )
    return table


def totals_table(survey: Survey, table_totals: Totals, unassigned: int) -> Table:
    """Compare the aggregates with the table. Flights without an aircraft have no stream: they are listed apart."""
    table = _table("Totals", "", ">from aggregates", ">from the table", "")
    for name, ours, theirs in zip(Totals._fields, survey.totals, table_totals, strict=True):
        shown = _hours if name == "air_minutes" else "{:,}".format
        table.add_row(
            _LABELS.get(name, name), shown(ours), shown(theirs), "[green]✓" if ours == theirs else "[bold red]✗"
        )
    table.add_section()
    table.add_row("cancelled, no aircraft assigned", "not in a stream", f"{unassigned:,}", "")
    table.add_row("flights in total", "", f"{table_totals.legs + unassigned:,}", "")
    return table


def delays_table(delays: Mapping[str, Delays], expected: Mapping[str, Delays]) -> Table:
    """Return one line for each airport; if the table has another number, it is in brackets."""
    table = _table("Airports", "", ">departed", f">{LATE_MINUTES}+ min late", ">share", ">minutes", ">cancelled", "")
    for airport in sorted({*delays, *expected}):
        ours, theirs = delays.get(airport, Delays()), expected.get(airport, Delays())
        numbers = [
            f"{own:,}" if own == other else f"{own:,} ({other:,})" for own, other in zip(ours, theirs, strict=True)
        ]
        numbers.insert(2, f"{ours.delays / ours.departures:.1%}" if ours.departures else "")
        table.add_row(airport, *numbers, "[green]✓" if ours == theirs else "[bold red]✗")
    return table


async def history_table(aircraft: Repository[Aircraft], tailnum: str, commits: int = 4) -> Table:
    """Return the last commits, one line for each event."""
    table = _table(f"The last {commits} flights of {tailnum}", "event id", "event", "", "New York")
    recent = []
    async with aclosing(aircraft.history(tailnum, backward=True)) as history:
        async for recorded in history:
            recent.append(recorded)
            if len(recent) == commits:
                break
    for commit, events in reversed(recent):
        for index, event in enumerate(events):
            what, when = _describe(event)
            table.add_row(str(commit.event_id(index)), tag_of(type(event)), what, _clock(when))
        table.add_section()
    return table


async def versions_table(aircraft: Repository[Aircraft], tailnum: str) -> Table:
    """Return the state at some versions, replayed up to each."""
    table = _table(
        f"{tailnum} at some versions", ">version", "leg of", "phase", "at", ">legs", ">hours", ">miles", ">late"
    )
    newest = (await aircraft.load(tailnum)).version
    for version in sorted({1, *(max(1, newest * quarter // 4) for quarter in range(1, 5))}):
        plane = await aircraft.load(tailnum, version=version)
        assert plane.leg is not None
        table.add_row(
            f"{version}",
            _clock(plane.leg.departs),
            plane.phase,
            _position(plane),
            f"{plane.legs}",
            _hours(plane.air_minutes),
            f"{plane.miles:,}",
            f"{plane.delays}",
        )
    return table


def snapshots_table(survey: Survey) -> Table:
    table = _table("What snapshots saved", "", ">loads read", ">full replay", ">saved")
    groups = (
        ("aircraft with a snapshot", survey.loaded_with_snapshot, survey.replayed_with_snapshot),
        ("aircraft in total", survey.loaded, survey.replayed),
    )
    for title, loaded, replayed in groups:
        table.add_row(f"[bold]{loaded.loads:,} {title}")
        for name in ("commits", "bytes", "units"):
            read, without = getattr(loaded, name), getattr(replayed, name)
            label = "read units of DynamoDB" if name == "units" else name
            table.add_row(f"  {label}", f"{read:,}", f"{without:,}", f"{1 - read / without:.0%}" if without else "")
        table.add_section()
    return table


def _describe(event: Event) -> tuple[str, datetime | None]:
    match event:
        case Scheduled(leg=leg):
            return f"{leg.carrier} {leg.flight} {leg.origin} → {leg.destination}", leg.departs
        case Departed(at=at):
            return "", at
        case Arrived(at=at, air_minutes=minutes):
            return f"{minutes} min" if minutes else "", at
        case Delayed(minutes=minutes):
            return f"{minutes} min", None
        case Contradicted(arrived=arrived):
            return "last arrival", arrived
        case _:
            return "", None


def _table(title: str, *columns: str) -> Table:
    """Return an empty table. A column whose name starts with `>` is right-aligned, for numbers."""
    table = Table(title=title, title_style="bold", title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column.lstrip(">"), no_wrap=True, justify="right" if column.startswith(">") else "left")
    return table


def _hours(minutes: int) -> str:
    return f"{minutes / 60:,.1f}"


def _position(plane: Aircraft) -> str:
    return plane.position or "unknown"


def _clock(moment: datetime | None) -> str:
    return f"{moment.astimezone(NEW_YORK):%b %d %H:%M}" if moment else ""
