"""A map as a flowchart for Mermaid."""

from __future__ import annotations

from .map import Map
from .map_wording import describe_edge, describe_kind
from .mermaid import EDGES, NODES, escape_label
from .wording import plain, show_count

_CHARACTERS = 20_000  # of nodes, and as many of edges: Mermaid draws charts of at most 50,000 characters


def draw_map_mermaid(map: Map) -> str:
    """Return a map as a Mermaid flowchart: a node for each type of events, an edge with a label for each kind of cause.

    It is within the limits of Mermaid: the most frequent ones are drawn, and the last nodes say how many more there
    are. A node is a hexagon if a processor has failed at it. Names are escaped as entity codes.
    """
    nodes: list[str] = []
    numbers: dict[str, int] = {}
    size = 0
    for number, kind in enumerate(map.kinds[:NODES]):
        before, after = ("{{", "}}") if kind.failed else ("[", "]")
        node = f'  n{number}{before}"{escape_label(kind.tag)}<br>{escape_label(describe_kind(kind))}"{after}'
        if (size := size + len(node)) > _CHARACTERS:
            break
        nodes.append(node)
        numbers[kind.tag] = number
    edges: list[str] = []
    size = 0
    for edge in map.edges:
        if edge.cause in numbers and edge.effect in numbers and len(edges) < EDGES:
            label = escape_label(plain(describe_edge(edge)))
            line = f'  n{numbers[edge.cause]} -->|"{label}"| n{numbers[edge.effect]}'
            if (size := size + len(line)) > _CHARACTERS:
                break
            edges.append(line)
    left_out = [
        (len(map.kinds) - len(nodes), "more type"),
        (len(map.edges) - len(edges), "more edge"),
    ]
    notes = [f'  more{n}["and {show_count(count, noun)}"]' for n, (count, noun) in enumerate(left_out) if count]
    return "\n".join(["flowchart LR", *nodes, *edges, *notes])
