"""What `make faults` prints: progress of each part, the results of a part when it ends, and all of them at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from .mutants import Verdict
from .report import Layer

INTERVAL = 10.0  # seconds between two lines of progress, if the output is not a terminal
MANY_VIOLATIONS = 20  # of one layer; further ones are counted only

_HEADINGS = ("layer", "operations", "faults", "acknowledged", "lost", "duplicated", "violations", "s", "seed")


class Took(NamedTuple):
    """How long a part took, in seconds."""

    wall: float  # from the start of its first job to the end of its last one
    cpu: float  # user and system, of all jobs


class Display:
    """Show how much of each part is done: a bar each on a terminal, otherwise a line every ten seconds."""

    def __init__(self, console: Console, parts: Sequence[str]) -> None:
        self._console, self._parts = console, parts
        self._begun = perf_counter()
        self._shown = 0.0
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description:>20}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
            console=console, transient=True,
        )  # fmt: skip

    @contextmanager
    def showing(self) -> Iterator[None]:
        if not self._console.is_terminal:
            yield
            return
        self._bars = {part: self._progress.add_task(part, total=1.0, start=False) for part in self._parts}
        with self._progress:
            yield

    def update(self, shares: Mapping[str, float]) -> None:
        """Show the share of each part that is done, from 0 to 1."""
        if self._bars:
            for part, share in shares.items():
                if share:
                    self._progress.start_task(self._bars[part])
                self._progress.update(self._bars[part], completed=share)
        elif self.seconds - self._shown >= INTERVAL:
            self._shown = self.seconds
            running = [f"{part} {share:.0%}" for part, share in shares.items() if 0 < share < 1]
            waiting = [part for part, share in shares.items() if not share]
            self.say(f"running: {', '.join(running)}" + (f"; waiting: {', '.join(waiting)}" if waiting else ""))

    @property
    def seconds(self) -> float:
        return perf_counter() - self._begun

    def say(self, text: str, style: str = "") -> None:
        self._console.print(
            f"{self.seconds:4.0f} s  {escape(text)}", style=style or None, soft_wrap=True, highlight=False
        )

    def show_verdict(self, verdict: Verdict) -> None:
        missed = verdict.seeds is None
        found = (
            "MISSED" if missed else f"detected within {verdict.seeds} histories" if verdict.seeds else "a test fails"
        )
        self.say(f"mutant {verdict.name.replace('_', ' ')}: {found}", "red" if missed else "")

    def show_part(self, part: str, layers: Sequence[Layer], took: Took) -> None:
        """Show the results of a part that has ended."""
        self.say(f"{part} ended; it took {took.wall:.0f} s, and {took.cpu:.0f} s of CPU")
        for layer in layers:
            counts = zip(_HEADINGS[1:7], _counts(layer), strict=True)
            self.say(f"  {layer.name}: " + ", ".join(f"{count} {heading}" for heading, count in counts))
        self.show_violations(layers)

    def show_violations(self, layers: Sequence[Layer]) -> None:
        for layer in layers:
            for violation in layer.violations[:MANY_VIOLATIONS]:
                self.say(f"{layer.name}: {violation}", "red")
            if (more := len(layer.violations) - MANY_VIOLATIONS) > 0:
                self.say(f"{layer.name}: and {more} more", "red")

    def show_all(self, layers: Sequence[Layer], verdicts: Sequence[Verdict], took: Mapping[str, Took]) -> None:
        """Show the results of all parts, and how long each part took."""
        table = Table(title=f"Faults and violations by layer ({self.seconds:.0f} s in all)")
        for heading in _HEADINGS:
            table.add_column(heading, justify="left" if heading == "layer" else "right")
        for layer in layers:
            table.add_row(layer.name, *_counts(layer), f"{layer.seconds:.0f}", str(layer.seed))
        if layers:
            self._console.print(table)
        for layer in layers:
            if layer.note:
                self._console.print(f"{layer.name}: {layer.note}")
            if layer.kinds:
                kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(layer.kinds.items()))
                self._console.print(f"{layer.name}: {kinds}")
        if verdicts:
            caught = Table(title="Mutants of the library, and histories until each was detected")
            for heading in ("mutant", "histories", "violation, or the test that fails"):
                caught.add_column(heading)
            for verdict in sorted(verdicts, key=lambda verdict: verdict.name):
                seeds = "missed" if verdict.seeds is None else str(verdict.seeds or "unit test")
                caught.add_row(verdict.name.replace("_", " "), seeds, escape(verdict.violation))
            self._console.print(caught)
        times = ", ".join(f"{part} {each.wall:.0f} s" for part, each in took.items())
        self._console.print(f"From the start to the end of each part: {times}")
        used = ", ".join(f"{part} {each.cpu:.0f} s" for part, each in took.items())
        self._console.print(f"CPU of each part: {used}; in all {sum(each.cpu for each in took.values()):.0f} s")
        self.show_violations(layers)


def _counts(layer: Layer) -> list[str]:
    counts = (layer.operations, layer.faults, layer.acknowledged, layer.lost, layer.duplicated, len(layer.violations))
    return [f"{count:,}" for count in counts]
