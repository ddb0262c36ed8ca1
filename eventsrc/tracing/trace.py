"""A trace: the commits that belong together, which event caused which, and what is still open."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime
from functools import cached_property
from itertools import zip_longest
from typing import Literal, NamedTuple

import msgspec

from ..aggregates.codec import unpack
from ..aggregates.event_values import read_tags
from ..repository.refusal import read_refusal
from ..store import Commit
from ..stores.causes import identity_of
from ..stream_id import category_of

_ISSUED = "eventsrc.issued"  # what handlers remember of their commands, which is in no trace

State = Literal["done", "pending", "retrying", "parked", "skipped"]


Describe = Callable[[Commit], Sequence[str]]
"""Returns what a picture says of each event of a commit besides its tag, such as its fields."""


class TracedEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event of a step: its id, as `order-7@3.0`, its tag, and what `describe` has returned for it."""

    id: str
    tag: str
    about: str = ""


class Handling(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a processor has done with a step: `done`, `skipped`, or what is open."""

    processor: str
    state: State
    error: str = ""  # the last error of a step that is parked or retried, or the reason why it was skipped
    attempts: int = 0

    @property
    def is_open(self) -> bool:
        return self.state in ("pending", "retrying", "parked")


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A commit of a trace.

    `parents` are the numbers of the steps whose events caused it, each below its own number, except in a circle, where
    one cause of each step is left out. `outside` are the causes that are not in the trace.
    """

    id: str  # stream@version
    store: str  # the name that the store was given
    time: int  # µs since the epoch, by the clock of the writer
    events: tuple[TracedEvent, ...]
    parents: tuple[int, ...] = ()
    outside: tuple[str, ...] = ()
    service: str = ""
    actor: str = ""
    handler: str = ""  # that made it, as wealth@1.handle_deposited; "" for a command from outside
    attempt: int = 1  # of the handler
    command_id: str = ""
    handled: tuple[Handling, ...] = ()
    refused: str = ""  # the name of the error with which a command was refused, which recorded no event
    damage: str = ""  # why its events cannot be read

    @property
    def at(self) -> datetime:
        return datetime.fromtimestamp(self.time / 1e6, UTC)

    @property
    def label(self) -> str:
        """The tags of its events, with their number if there are several: `stock.reserved x 3`."""
        counts = Counter(event.tag for event in self.events)
        if tags := ", ".join(f"{tag} x {count:,}" if count > 1 else tag for tag, count in counts.items()):
            return tags
        return "unreadable" if self.damage else f"refused: {self.refused}" if self.refused else "nothing recorded"

    @property
    def types(self) -> Sequence[str]:
        """The types of its events, as `types_of` returns them."""
        return types_of(self.id.rpartition("@")[0], [event.tag for event in self.events])

    @property
    def place(self) -> str:
        """The service, or the store if no service was named."""
        return self.service or self.store

    def lane(self, *, by_stream: bool) -> str:
        """The lane in which it is drawn: its stream, or its service."""
        return self.id.rpartition("@")[0] if by_stream else self.place


def types_of(stream: str, tags: Iterable[str]) -> Sequence[str]:
    """Return the types of the events of a commit: their tags, each once, or for a commit of a process its category."""
    found = [tag for tag in dict.fromkeys(tags) if tag != _ISSUED]
    return [category_of(stream)] if any(tag.startswith("process.") for tag in found) else found


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """An effect that steps of the type `cause` usually have, and that a step of this trace does not have yet."""

    step: str  # stream@version
    cause: str
    effect: str
    p95: float | None  # seconds that it usually takes at most; None if no clock was right


class TimerState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A timer of a process. Times are in µs since the epoch, by the clock of the worker that fires it."""

    name: str
    due: int
    state: Literal["pending", "fired", "cancelled"] = "pending"
    fired: int | None = None


class ProcessState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A process that has steps in a trace, as it is now: the commands and calls that have no outcome yet, as
    `stock.reserve pen`, and its timers in the order in which they were started.
    """

    stream: str
    store: str
    ended: bool = False
    pending: tuple[str, ...] = ()
    timers: tuple[TimerState, ...] = ()


Link = Callable[[Step], str]
"""Returns the address of the page of a step."""


class Trace(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The steps of a trace, by cause: each after the steps that caused it, then by time.

    `failures` say which stores or processors could not be read, and why. What they know is missing. `missing` are the
    steps that usually follow and have not, if they were looked for: see `find_missing`. `processes` are those that have
    steps.
    """

    id: str
    steps: tuple[Step, ...]
    failures: tuple[str, ...] = ()
    missing: tuple[Missing, ...] = ()
    processes: tuple[ProcessState, ...] = ()

    @cached_property
    def children(self) -> Sequence[Sequence[int]]:
        """For each step, the steps whose last parent it is: each step but the roots is a child once."""
        found: list[list[int]] = [[] for _ in self.steps]
        for number, step in enumerate(self.steps):
            if step.parents:
                found[max(step.parents)].append(number)
        return found

    @property
    def roots(self) -> Sequence[int]:
        return [number for number, step in enumerate(self.steps) if not step.parents]

    @property
    def duration(self) -> float:
        """Seconds from the first step to the last one, by the clocks of their writers."""
        times = [step.time for step in self.steps]
        return (max(times) - min(times)) / 1e6 if times else 0.0

    @property
    def places(self) -> Sequence[str]:
        """The services, or stores, in the order of their first step."""
        return list(dict.fromkeys(step.place for step in self.steps))

    @property
    def open(self) -> Sequence[tuple[Step, Handling]]:
        """What processors have not done yet."""
        return [(step, each) for step in self.steps for each in step.handled if each.is_open]

    @property
    def failed(self) -> Sequence[tuple[Step, Handling]]:
        """What is parked, or retried after an error."""
        return [(step, each) for step, each in self.open if each.error]

    def latency(self, number: int) -> float | None:
        """Return the seconds since the last of a step's causes; None for a root.

        It is below 0 if the clocks of the two writers differ by more than the step took.
        """
        step = self.steps[number]
        if not step.parents:
            return None
        return (step.time - max(self.steps[parent].time for parent in step.parents)) / 1e6

    def ancestors(self, number: int) -> set[int]:
        """Return a step and all that led to it."""
        found = {number}
        for each in range(number, -1, -1):
            if each in found:
                found.update(self.steps[each].parents)
        return found

    def descendants(self, number: int) -> set[int]:
        """Return a step and all that it led to."""
        found = {number}
        for each in range(number + 1, len(self.steps)):
            if not found.isdisjoint(self.steps[each].parents):
                found.add(each)
        return found

    def keep(self, numbers: Collection[int]) -> Trace:
        """Return the trace of these steps alone."""
        places = {number: place for place, number in enumerate(sorted(numbers))}
        steps = [
            msgspec.structs.replace(
                self.steps[number], parents=tuple(places[each] for each in self.steps[number].parents if each in places)
            )
            for number in places
        ]
        streams = {(step.store, step.id.rpartition("@")[0]) for step in steps}
        processes = tuple(each for each in self.processes if (each.store, each.stream) in streams)
        return msgspec.structs.replace(self, steps=tuple(steps), processes=processes)

    @property
    def critical_path(self) -> Sequence[int]:
        """The steps that the end had to wait for: back from the last step, each time to its latest cause."""
        if not self.steps:
            return []
        path = [max(range(len(self.steps)), key=lambda number: (self.steps[number].time, number))]
        while parents := self.steps[path[-1]].parents:
            path.append(max(parents, key=lambda number: (self.steps[number].time, number)))
        return path[::-1]


class Found(NamedTuple):
    """A commit that was found in a store, and what processors have done with it."""

    store: str
    commit: Commit
    handled: tuple[Handling, ...] = ()


def build_trace(
    id: str, found: Iterable[Found], failures: Iterable[str] = (), describe: Describe | None = None
) -> Trace:
    """Return the trace of these commits, in any order. A commit that several stores have counts once.

    Causes may be wrong, foreign, or in a circle: each step is in the result all the same, once.
    """
    distinct: dict[bytes, Found] = {}
    for each in found:
        distinct.setdefault(each.commit.id, each)
    nodes = list(distinct.values())
    owners: dict[str, list[int]] = {}  # by identity; several, if stores have different commits of one name
    for number, node in enumerate(nodes):
        owners.setdefault(f"{node.commit.stream}@{node.commit.version}", []).append(number)
    parents: list[list[int]] = []
    outside: list[tuple[str, ...]] = []
    for number, node in enumerate(nodes):
        causes = dict.fromkeys(node.commit.causation_ids)
        known = {cause: [one for one in owners.get(identity_of(cause), ()) if one != number] for cause in causes}
        parents.append(list(dict.fromkeys(one for each in known.values() for one in each)))
        outside.append(tuple(cause for cause, each in known.items() if not each))
    order = _sort([node.commit for node in nodes], parents)
    places = {number: place for place, number in enumerate(order)}
    steps = [
        _to_step(
            nodes[number],
            tuple(sorted(place for parent in parents[number] if (place := places[parent]) < places[number])),
            outside[number],
            describe,
        )
        for number in order
    ]
    return Trace(id=id, steps=tuple(steps), failures=tuple(failures))


def _sort(commits: Sequence[Commit], parents: Sequence[Sequence[int]]) -> list[int]:
    """Return the numbers of commits, each after its parents, and otherwise by time. A circle begins at its earliest."""
    children: list[list[int]] = [[] for _ in commits]
    waiting = [len(each) for each in parents]
    for number, each in enumerate(parents):
        for parent in each:
            children[parent].append(number)

    def key(number: int) -> tuple[int, str, int, int]:
        commit = commits[number]
        return commit.time, commit.stream, commit.version, number

    ready = [key(number) for number, count in enumerate(waiting) if not count]
    heapq.heapify(ready)
    by_time = iter(sorted(map(key, range(len(commits)))))  # for circles
    order: list[int] = []
    done = [False] * len(commits)
    while len(order) < len(commits):
        number = heapq.heappop(ready)[-1] if ready else next(by_time)[-1]
        if done[number]:
            continue
        done[number] = True
        order.append(number)
        for child in children[number]:
            waiting[child] -= 1
            if not waiting[child] and not done[child]:
                heapq.heappush(ready, key(child))
    return order


def _to_step(found: Found, parents: tuple[int, ...], outside: tuple[str, ...], describe: Describe | None) -> Step:
    commit, metadata, damage = found.commit, found.commit.metadata, ""
    about: Sequence[str] = ()
    try:
        tags = read_tags(unpack(commit.payload, commit.stream, commit.version))
        about = describe(commit) if describe is not None else ()
    except Exception as error:  # noqa: BLE001  # what is damaged is shown in its place
        tags, damage = list(commit.tags), str(error)
    attempt, refusal = metadata.get("attempt", ""), read_refusal(commit)
    return Step(
        id=f"{commit.stream}@{commit.version}",
        store=found.store,
        time=commit.time,
        events=tuple(
            TracedEvent(str(commit.event_id(index)), tag, text)
            for index, (tag, text) in enumerate(zip_longest(tags, about[: len(tags)], fillvalue=""))
        ),
        parents=parents,
        outside=outside,
        service=metadata.get("service", ""),
        actor=metadata.get("actor", ""),
        handler=metadata.get("handler", ""),
        attempt=int(attempt) if attempt.isdecimal() and len(attempt) < 10 else 1,
        command_id=commit.command_id or "",
        handled=found.handled,
        refused=refusal[0] if refusal is not None else "",
        damage=damage,
    )
