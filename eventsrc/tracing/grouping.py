"""Which steps of a trace are drawn as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .trace import Trace

ALIKE = 4
"""Siblings with equal subtrees are drawn as one from this number on."""

Group = list[int]
"""The numbers of steps that are drawn as one, or of a single step. The first one stands for all."""


class Grouping:
    """The steps of a trace in groups: siblings with equal subtrees together if they are at least `alike`.

    Children of a group are those of all its steps, in groups again. So each step is in one group.
    """

    def __init__(self, trace: Trace, alike: int = ALIKE) -> None:
        self._trace, self._alike = trace, alike
        self._signatures = _find_signatures(trace)

    @property
    def roots(self) -> list[Group]:
        return self._group(self._trace.roots)

    def children(self, group: Group) -> list[Group]:
        return self._group([child for number in group for child in self._trace.children[number]])

    def walk(self) -> Iterator[tuple[int, Group]]:
        """Yield the depth of each group, and the group: each one after its parent, before its next sibling."""
        stack = [(0, each) for each in reversed(self.roots)]
        while stack:
            depth, group = stack.pop()
            yield depth, group
            stack += [(depth + 1, each) for each in reversed(self.children(group))]

    def _group(self, numbers: Sequence[int]) -> list[Group]:
        groups: dict[int, Group] = {}
        for number in numbers:
            groups.setdefault(self._signatures[number], []).append(number)
        found = [[number] for number in numbers if len(groups[self._signatures[number]]) < self._alike]
        found += [sorted(each) for each in groups.values() if len(each) >= self._alike]
        return sorted(found)


def _find_signatures(trace: Trace) -> list[int]:
    """Return a number for each step; steps have the same one if their subtrees look the same."""
    known: dict[object, int] = {}
    found = [0] * len(trace.steps)
    for number in range(len(trace.steps) - 1, -1, -1):  # children come after their parents
        step = trace.steps[number]
        below = tuple(sorted(found[child] for child in trace.children[number]))
        key = (step.label, step.place, step.handler, step.damage, below)
        found[number] = known.setdefault(key, len(known))
    return found


def find_causes(trace: Trace, groups: Sequence[Group]) -> list[list[int]]:
    """Return for each group the groups that caused it, by their places in this list.

    `groups` are in order of their first steps. Each cause is before what it caused: a cause that some step of a group
    has in the group itself, or in a later one, is left out.
    """
    owners = {number: place for place, group in enumerate(groups) for number in group}
    found: list[list[int]] = []
    for place, group in enumerate(groups):
        causes = {owners.get(parent, place) for number in group for parent in trace.steps[number].parents}
        found.append(sorted(each for each in causes if each < place))
    return found
