"""A trace as a flowchart for Mermaid."""

from __future__ import annotations

from .grouping import Group, Grouping, find_causes
from .trace import Trace
from .wording import name_state, plain, show_count, summarize

NODES, EDGES = 300, 450  # Mermaid draws at most 500 edges and 50,000 characters, unless it is configured
_CHARACTERS = 35_000  # of nodes
_LONGEST = 60  # characters of a name
_SHAPES = {"done": ("[", "]"), "open": ("([", "])"), "failed": ("{{", "}}"), "unreadable": ("[/", "/]")}
_PLAIN = frozenset(" .,@()-_")  # what a label has as it is, except letters and digits


def draw_mermaid(trace: Trace) -> str:
    """Return a trace as a Mermaid flowchart: a node for each step, and an edge from each cause to its effect.

    - Siblings with equal subtrees are one node, as in the tree.
    - It has at most 300 nodes, in the order of their causes; a last one says how many steps were left out. A node names
      its service: there are no subgraphs, because Mermaid fails to draw some large charts that have them.
    - What is open has round ends, what has failed is a hexagon, what cannot be read is slanted; each says so.
    - Names are escaped as entity codes, so that they stay within their labels.
    """
    groups = sorted(group for _, group in Grouping(trace).walk())
    nodes: list[str] = []
    size = 0
    for number, group in enumerate(groups[:NODES]):
        node = f"  n{number}{_draw_label(trace, group)}"
        if (size := size + len(node)) > _CHARACTERS:
            break
        nodes.append(node)
    causes = find_causes(trace, groups[: len(nodes)])
    edges = [f"  n{cause} --> n{number}" for number, some in enumerate(causes) for cause in some]
    left_out = [
        (sum(map(len, groups[len(nodes) :])), "more step"),
        (len(edges[EDGES:]), "more edge"),
    ]
    notes = [f'  more{n}["and {show_count(count, noun)}"]' for n, (count, noun) in enumerate(left_out) if count]
    return "\n".join(["flowchart LR", *nodes, *edges[:EDGES], *notes])


def _draw_label(trace: Trace, group: Group) -> str:
    steps = [trace.steps[number] for number in group]
    state = name_state(steps)
    before, after = _SHAPES[state]
    about = ", ".join(summarize(trace, group)) if len(group) > 1 else steps[0].id
    parts = [steps[0].label, about, f"in {steps[0].place}", *([state] if state != "done" else [])]
    return f'{before}"{"<br>".join(map(escape_label, parts))}"{after}'


def escape_label(text: str) -> str:
    """Return a text as letters, digits and entity codes, which cannot end a label or begin anything in it."""
    shown = plain(text)
    shown = shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"
    return "".join(each if each.isalnum() or each in _PLAIN else f"#{ord(each)};" for each in shown)
