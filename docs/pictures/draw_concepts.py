"""Draw concepts.svg, the picture in docs/concepts.md. `make pictures` runs this.

The lists say what is drawn and where, in pixels; the functions after them turn one entry into SVG. The widths leave
room for the widest of the common fonts. Colours follow the reader's light or dark mode, on a ground of their own, so
that the picture can be read on any page.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 900, 716
TITLE = "eventsrc in one picture"
DESCRIPTION = (
    "Write side: your code uses a repository to load, save and execute. A command of the aggregate records events, the "
    "codec makes bytes of them, and the store appends them as one commit at the next version of the stream. If another "
    "commit stands there, the conflict returns it, and execute decides again. A load reads the newest snapshot and the "
    "commits after it, and the aggregate folds them. Read side: a feed delivers all commits of the store, the gate "
    "passes each one once and in stream order, and the processor passes them to projections, effects and mirrors. "
    "Publishing delivers the events that you list to other services. The trace, which names the cause of a commit, "
    "travels with it from your code to the handlers."
)


class Box(NamedTuple):
    kind: str  # panel, yours, ours or outside
    x: int
    y: int
    width: int
    height: int
    title: str = ""
    lines: tuple[str, ...] = ()
    promise: str = ""  # on the line of the title, to the right


class Slot(NamedTuple):
    """One place in a stream."""

    kind: str  # commit, snapshot or next
    x: int
    y: int
    width: int
    version: str
    text: str


class Line(NamedTuple):
    kind: str  # flow, reach, conflict or trace
    points: tuple[tuple[int, int], ...]


class Label(NamedTuple):
    kind: str  # title, note, stream, conflicting, tracing or heading, which is bold up to a colon
    x: int
    y: int
    text: str
    anchor: str = "start"


BOXES = [
    Box("panel", 20, 54, 860, 188),
    Box("yours", 36, 104, 150, 122, "Your code", ("a request handler,", "a job, a consumer", "of messages")),
    Box("yours", 259, 104, 159, 122, "Aggregate", ("commands check", "and record events;", "apply_* folds them")),
    Box("ours", 482, 104, 159, 122, "Repository", ("load, fold, save;", "execute: all three,", "again on a conflict")),
    Box("ours", 705, 104, 159, 122, "Codec", ("events and state", "as bytes, checked", "and compressed")),
    Box("panel", 20, 288, 860, 122),
    Box("panel", 20, 456, 860, 244),
    Box("ours", 36, 496, 150, 112, "Feed", ("every commit:", "ordered, stream,", "scan or export")),
    Box("ours", 228, 496, 146, 112, "Gate", ("each commit once,", "in stream order;", "fills gaps")),
    Box("ours", 416, 496, 150, 112, "Processor", ("calls handlers;", "on failure retries,", "parks that stream")),
    Box("yours", 616, 496, 248, 52, "Projection", ("read model and positions together",), "exactly once"),
    Box("yours", 616, 564, 248, 52, "Effects", ("mails, calls: the event id as key",), "at least once"),
    Box("ours", 616, 632, 248, 52, "Mirror", ("the same commits in another store",), "exactly once"),
    Box("ours", 36, 632, 338, 52, "Publishing", ("CloudEvents over HTTP: pages, streams",), "only what you list"),
    Box("outside", 416, 632, 150, 52, "Other services", ("and browsers",)),
]

SLOTS = [
    Slot("commit", 272, 312, 82, "1", "Opened"),
    Slot("commit", 362, 312, 98, "2", "Deposited"),
    Slot("snapshot", 468, 312, 110, "", "snapshot at 2"),
    Slot("commit", 586, 312, 100, "3", "Withdrawn"),
    Slot("next", 694, 312, 170, "4", "the first writer wins"),
    Slot("commit", 272, 360, 188, "1", "Opened, Deposited"),
    Slot("next", 468, 360, 110, "2", ""),
]

LINES = [
    Line("flow", ((186, 152), (256, 152))),
    Line("flow", ((115, 104), (115, 88), (561, 88), (561, 101))),
    Line("flow", ((418, 142), (479, 142))),
    Line("flow", ((482, 176), (421, 176))),
    Line("flow", ((641, 142), (702, 142))),
    Line("flow", ((705, 176), (644, 176))),
    Line("reach", ((468, 308), (468, 302), (686, 302), (686, 308))),
    Line("flow", ((577, 302), (577, 264), (722, 264), (722, 229))),
    Line("flow", ((794, 226), (794, 309))),
    Line("conflict", ((854, 312), (854, 229))),
    Line("trace", ((126, 212), (784, 212), (784, 309))),
    Line("flow", ((156, 410), (156, 493))),
    Line("trace", ((166, 410), (166, 594), (446, 594))),
    Line("flow", ((186, 546), (225, 546))),
    Line("flow", ((374, 546), (413, 546))),
    Line("flow", ((566, 522), (613, 522))),
    Line("flow", ((590, 522), (590, 590), (613, 590))),
    Line("flow", ((590, 590), (590, 658), (613, 658))),
    Line("flow", ((111, 608), (111, 629))),
    Line("flow", ((374, 658), (413, 658))),
]

LABELS = [
    Label("title", 20, 36, TITLE),
    Label("heading", 864, 78, "Write side: every save has a known outcome", "end"),
    Label("note", 338, 82, "load, save, execute", "middle"),
    Label("note", 221, 145, "command", "middle"),
    Label("note", 450, 135, "events", "middle"),
    Label("note", 450, 192, "fold", "middle"),
    Label("note", 673, 135, "encode", "middle"),
    Label("note", 673, 192, "decode", "middle"),
    Label("note", 569, 268, "load: the snapshot and the commits after it", "end"),
    Label("note", 779, 260, "append", "end"),
    Label("conflicting", 849, 278, "conflict", "end"),
    Label("tracing", 48, 216, "trace(...)"),
    Label("heading", 36, 322, "Store: bytes only"),
    Label("note", 36, 346, "in memory"),
    Label("note", 36, 364, "SQLite"),
    Label("note", 36, 382, "DynamoDB"),
    Label("stream", 262, 333, "account-a-1", "end"),
    Label("stream", 262, 381, "account-a-2", "end"),
    Label("note", 594, 381, "a commit: the events of one save"),
    Label("note", 178, 438, "all commits after a checkpoint"),
    Label("heading", 864, 480, "Read side: every stream in order, without gaps", "end"),
    Label("tracing", 453, 598, "context.commit"),
]

LEGEND = [
    ("yours", 384, "you write"),
    ("ours", 474, "eventsrc"),
    ("commit", 558, "stored"),
    ("conflict", 628, "conflict"),
    ("trace", 722, "trace: what caused it"),
]

LIGHT = {
    "ground": "#ffffff",
    "panel": "#f4f6f8",
    "border": "#d5dbe1",
    "text": "#1c2530",
    "quiet": "#55606c",
    "yours": "#fff3d1",
    "yours-border": "#c8921a",
    "ours": "#e4eefc",
    "ours-border": "#4a7fc7",
    "stored": "#dff3e4",
    "stored-border": "#3d9158",
    "flow": "#55606c",
    "conflict": "#c6362f",
    "trace": "#8250c8",
}
DARK = {
    "ground": "#10151c",
    "panel": "#181f28",
    "border": "#36414d",
    "text": "#e8edf2",
    "quiet": "#a9b4c0",
    "yours": "#3c3115",
    "yours-border": "#d9a63a",
    "ours": "#1a2d49",
    "ours-border": "#6a9ee0",
    "stored": "#173524",
    "stored-border": "#58b277",
    "flow": "#a9b4c0",
    "conflict": "#ff7a70",
    "trace": "#b794f0",
}

COLOURS = """
.ground, .panel {{ stroke: {border} }} .ground {{ fill: {ground} }} .panel {{ fill: {panel} }}
.yours {{ fill: {yours}; stroke: {yours-border} }} .ours {{ fill: {ours}; stroke: {ours-border} }}
.outside, .next {{ fill: none; stroke: {flow} }}
.commit, .snapshot {{ fill: {stored}; stroke: {stored-border} }}
text {{ fill: {text} }} .note, .promise {{ fill: {quiet} }}
.conflicting {{ fill: {conflict} }} .tracing {{ fill: {trace} }}
path.flow, path.reach {{ stroke: {flow} }} path.conflict {{ stroke: {conflict} }} path.trace {{ stroke: {trace} }}
.tip-flow {{ fill: {flow} }} .tip-conflict {{ fill: {conflict} }} .tip-trace {{ fill: {trace} }}
"""
STYLE = """
text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, Helvetica, Arial, sans-serif }
.title { font-size: 18px } .name, .heading { font-size: 14px }
.title, .name, .bold { font-weight: 600 }
.stream, .tracing { font-family: ui-monospace, Menlo, Consolas, monospace }
path { fill: none; stroke-width: 1.5 }
path.conflict { stroke-dasharray: 6 3 } path.trace { stroke-width: 2.5; stroke-dasharray: 0.1 5; stroke-linecap: round }
.snapshot, .next { stroke-dasharray: 4 3 }
"""


def draw() -> str:
    """The whole picture as SVG; the same text each time."""
    dark = f"@media (prefers-color-scheme: dark) {{{COLOURS.format_map(DARK)}}}"
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title description">',
        f'<title id="title">{escape(TITLE)}</title>',
        f'<desc id="description">{escape(DESCRIPTION)}</desc>',
        f"<style>{COLOURS.format_map(LIGHT)}{STYLE}{dark}</style>",
        rectangle("ground", 0.5, 0.5, WIDTH - 1, HEIGHT - 1),
        *map(box, BOXES),
        *map(slot, SLOTS),
        *map(line, LINES),
        *map(label, LABELS),
        *(legend(*entry) for entry in LEGEND),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def rectangle(kind: str, x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="4"/>'


def text(kind: str, x: int, y: int, content: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{content}</text>'


def box(box: Box) -> str:
    left, right, top = box.x + 12, box.x + box.width - 12, box.y + 22
    parts = [rectangle(box.kind, box.x, box.y, box.width, box.height)]
    if box.title:
        parts.append(text("name", left, top, escape(box.title)))
    if box.promise:
        parts.append(text("promise", right, top, escape(box.promise), "end"))
    parts += [text("line", left, top + 20 + 18 * number, escape(each)) for number, each in enumerate(box.lines)]
    return "\n".join(parts)


def slot(slot: Slot) -> str:
    version = f'<tspan class="bold">{slot.version}</tspan> ' if slot.version else ""
    content = text("slot", slot.x + 10, slot.y + 20, version + escape(slot.text))
    return rectangle(slot.kind, slot.x, slot.y, slot.width, 32) + content


def line(line: Line) -> str:
    way = " ".join(f"{x},{y}" for x, y in line.points)
    path = f'<path class="{line.kind}" d="M{way}"/>'
    return path if line.kind == "reach" else path + tip(line.kind, *line.points[-2:])


def tip(kind: str, before: tuple[int, int], end: tuple[int, int]) -> str:
    """The head of an arrow: its point is where the line ends."""
    (x, y), (dx, dy) = end, [(b > a) - (b < a) for a, b in zip(before, end, strict=True)]
    back, half = 8, 4
    corners = [(x, y), *((x - back * dx + side * dy, y - back * dy + side * dx) for side in (half, -half))]
    return f'<polygon class="tip-{kind}" points="{" ".join(f"{x},{y}" for x, y in corners)}"/>'


def label(label: Label) -> str:
    content = escape(label.text)
    if label.kind == "heading":
        bold, colon, rest = content.partition(":")
        content = f'<tspan class="bold">{bold}{colon}</tspan>{rest}'
    return text(label.kind, label.x, label.y, content, label.anchor)


def legend(kind: str, x: int, meaning: str) -> str:
    if kind in ("conflict", "trace"):
        sample = f'<path class="{kind}" d="M{x},31 {x + 24},31"/>'
        return sample + text("note", x + 30, 35, meaning)
    return rectangle(kind, x, 24, 14, 14) + text("note", x + 20, 35, meaning)


if __name__ == "__main__":
    Path(__file__).with_name("concepts.svg").write_text(draw(), encoding="utf-8")
