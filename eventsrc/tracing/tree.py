"""A trace as a tree of text."""

from __future__ import annotations

from .grouping import ALIKE, Grouping
from .trace import Trace
from .wording import head_lines, note, show_step

_DEEPEST = 120  # characters of a line before its step; deeper steps are not indented further
_BRANCH, _LAST, _PIPE, _SPACE, _DEEPER = "├─ ", "└─ ", "│  ", "   ", "↳ "


def draw_tree(trace: Trace, *, alike: int = ALIKE) -> str:
    """Return the head of a trace and its tree: each step below the last of its causes.

    `alike` is the number of siblings from which those with equal subtrees are drawn as one. Give a large one to see all
    of them. Control characters are escaped, so that names cannot drive a terminal.
    """
    lines = [*head_lines(trace), ""]
    grouping = Grouping(trace, alike)
    # Each entry of the stack: the steps that are drawn as one, and the prefixes of its first line and of the others.
    stack = [(each, "", "") for each in reversed(grouping.roots)]
    while stack:
        numbers, first, rest = stack.pop()
        children = grouping.children(numbers)
        lines.append(first + "  ".join(show_step(trace, numbers)))
        below = rest + (_PIPE if children else _SPACE)
        lines += [below + text for text in note(trace, numbers)]
        for place, each in reversed(list(enumerate(children, 1))):
            is_last = place == len(children)
            if len(rest) < _DEEPEST:
                stack.append((each, rest + (_LAST if is_last else _BRANCH), rest + (_SPACE if is_last else _PIPE)))
            else:
                stack.append((each, rest + _DEEPER, rest))
    return "\n".join(line.rstrip() for line in lines)
