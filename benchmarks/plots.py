"""Draw plots as SVG, readable on a light and on a dark page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PLOTS = Path(__file__).parents[1] / "docs" / "plots"
COLOURS = ("#0b6bcb", "#e07b00", "#2a9d4a", "#b03a8c", "#6b6b6b", "#c0392b", "#7a5cc7", "#117a8b")

mpl.rcParams.update(
    {
        "svg.hashsalt": "eventsrc",  # the same figures give the same file
        "font.size": 11,
        "axes.grid": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": "#dddddd",
        "axes.axisbelow": True,
        "axes.prop_cycle": cycler(color=COLOURS),
    }
)


@contextmanager
def plot(name: str, title: str, across: str, up: str, *, width: float = 7.5, height: float = 4.2) -> Iterator[Axes]:
    """Yield axes to draw on, and save them as docs/plots/`name`.svg afterwards."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=12)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    yield axes
    PLOTS.mkdir(exist_ok=True)
    figure.savefig(PLOTS / f"{name}.svg", metadata={"Date": None, "Creator": None})


def bars(axes: Axes, groups: Sequence[str], series: Mapping[str, Sequence[float | None]]) -> None:
    """Draw bars side by side, one group for each name in `groups`. A missing value leaves a gap."""
    width = 0.8 / len(series)
    for number, (name, values) in enumerate(series.items()):
        places = [place + (number - (len(series) - 1) / 2) * width for place in range(len(groups))]
        axes.bar(places, [value or 0 for value in values], width, label=name)
    axes.set_xticks(range(len(groups)), groups)
    axes.grid(visible=False, axis="x")
    axes.legend(frameon=False)


def horizontal(axes: Axes, values: Mapping[str, float], form: str = "{:.2f}") -> None:
    """Draw one bar per name, the first on top. eventsrc has a colour of its own.

    A bar more than three times as long as all others is cut, and its label says so.
    """
    names = list(values)[::-1]
    largest = max(sorted(values.values())[:-1], default=0) * 3
    cut = {name: largest if values[name] > largest > 0 else values[name] for name in names}
    colours = [COLOURS[0] if name.startswith("eventsrc") else "#9aa5b1" for name in names]
    drawn = axes.barh(names, [cut[name] for name in names], color=colours)
    labels = [form.format(values[name]) + (" (cut)" if cut[name] < values[name] else "") for name in names]
    axes.bar_label(drawn, labels, padding=4)
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.14)
