"""Check what processes have done, from the streams alone: their own, those of their inputs, and those of their targets.

Each thing is counted in the log, so nothing that the library remembers is trusted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

from eventsrc import Commit, Event
from eventsrc.aggregates.codec import unpack
from eventsrc.aggregates.declaration import declaration_of
from eventsrc.aggregates.event import tag_of
from eventsrc.processes import Done, Input, Process, Refused
from eventsrc.processes.deciding import codec_of
from eventsrc.processes.events import (
    Answered,
    CallRequested,
    CommandRequested,
    Ended,
    InputHeld,
    InputTaken,
    TimerCancelled,
    TimerFired,
    TimerHandled,
    TimerStarted,
)
from eventsrc.processes.handlers import handlers_of
from eventsrc.stream_id import category_of

Logs = Mapping[str, Mapping[str, Sequence[Commit]]]
"""By the name of a store: the commits of each stream, in order."""

Place = tuple[int, int, int]


_BEGINS = (InputTaken, InputHeld, CommandRequested, CallRequested, TimerStarted, TimerFired, TimerHandled)
"""What a process that has ended does not do."""


class Found(NamedTuple):
    """What was found. All except the counts of commands and timers must be zero or empty."""

    commands: int
    timers: int
    lost: int  # commands without an outcome or an effect, inputs that were not taken, timers that have not fired
    twice: int  # commands, inputs and timers
    violations: Sequence[str]


class Checker:
    """Checks the processes of one class at the end of a history.

    `is_expected` says for a process that has not ended whether that is right. `latest` says for a commit, by its id,
    the latest time that a clock of these processes had shown before it was stored, in µs.
    """

    def __init__(
        self,
        process: type[Process],
        home: str,
        sources: Mapping[str, str],
        logs: Logs,
        *,
        targets: Mapping[str, str],
        is_expected: Callable[[str], bool] = lambda _: False,
        latest: Mapping[bytes, int] | None = None,
    ) -> None:
        self._process, self._home, self._sources = process, home, sources  # sources: by name, names of stores
        self._logs, self._targets, self._is_expected = logs, targets, is_expected
        self._latest = latest or {}
        self._category = declaration_of(process).category
        self._lost: list[str] = []
        self._twice: list[str] = []
        self._wrong: list[str] = []
        self._commands = self._timers = 0
        self._applied = self._find_applied()

    def check(self) -> Found:
        asked = set[str]()
        inputs = self._find_inputs()
        seen = set[str]()
        for stream, commits in self._logs[self._home].items():
            if category_of(stream) == self._category:
                seen.add(id := stream.removeprefix(f"{self._category}-"))
                asked |= self._check_process(stream, id, commits, inputs.get(id, {}))
        for id, origins in inputs.items():
            if id not in seen:
                self._lost.append(f"{self._category}-{id}: none of its inputs was taken: {origins}")
        for command_id in self._applied.keys() - asked:
            self._wrong.append(f"{command_id} was applied, and nobody had asked for it")
        violations = [*self._lost, *self._twice, *self._wrong]
        return Found(self._commands, self._timers, len(self._lost), len(self._twice), violations)

    def _find_applied(self) -> Mapping[str, Sequence[Commit]]:
        """Return the commits of commands of these processes, by command id."""
        found: dict[str, list[Commit]] = defaultdict(list)
        for category, store in self._targets.items():
            for stream, commits in self._logs[store].items():
                if category_of(stream) == category:
                    for commit in commits:
                        if f":{self._category}-" in (commit.command_id or ""):
                            found[commit.command_id or ""].append(commit)
        return found

    def _find_inputs(self) -> Mapping[str, Mapping[str, Sequence[Place]]]:
        """Return the places of the events for each process, by their origin."""
        found: dict[str, dict[str, list[Place]]] = defaultdict(lambda: defaultdict(list))
        codec = codec_of(self._process)
        wanted = {tag_of(each) for each in handlers_of(self._process).inputs}
        for source, store in self._sources.items():
            for stream, commits in self._logs[store].items():
                if category_of(stream) == self._category or category_of(stream) == "issued":
                    continue
                for commit in commits:
                    if not wanted & set(commit.tags):
                        continue
                    for index, event in _decode_some(codec, commit):
                        place = (commit.version, index, 0)
                        given = Input(str(commit.event_id(index)), stream, place, commit.time, source)
                        if (key := self._process.key(event, given)) is not None:
                            found[key][f"{source}|{stream}" if source else stream].append(place)
        return found

    def _check_process(
        self, stream: str, id: str, commits: Sequence[Commit], inputs: Mapping[str, Sequence[Place]]
    ) -> set[str]:
        """Check one process. Return the ids of the commands that it has asked for."""
        codec = declaration_of(self._process).codec
        events = [(each, commit) for commit in commits for each in codec.decode(commit.payload, stream, commit.version)]
        ended = [number for number, (event, _) in enumerate(events) if isinstance(event, Ended)]
        if ended and any(isinstance(event, _BEGINS) for event, _ in events[ended[0] :]):
            self._wrong.append(f"{stream} did something after its end")
        if len(ended) > 1:
            self._twice.append(f"{stream} has ended {len(ended)} times")
        if not ended and not self._is_expected(id):
            self._wrong.append(f"{stream} has not ended")
        self._check_inputs(stream, [event for event, _ in events], inputs, has_ended=bool(ended))
        self._check_held(stream, events)
        self._check_timers(stream, events, has_ended=bool(ended))
        return self._check_commands(stream, [event for event, _ in events])

    def _check_inputs(
        self, stream: str, events: Sequence[Event], inputs: Mapping[str, Sequence[Place]], *, has_ended: bool
    ) -> None:
        taken: dict[str, list[Place]] = defaultdict(list)
        held: dict[str, list[Place]] = defaultdict(list)
        for event in events:
            if isinstance(event, InputTaken):
                taken[event.stream].append(event.place)
            elif isinstance(event, InputHeld):
                held[event.stream].append(event.place)
        for kind in (taken, held):
            for origin, each in kind.items():
                if len(set(each)) < len(each):
                    self._twice.append(f"{stream}: inputs of {origin} were taken as {each}")
        for origin, places in inputs.items():
            found = sorted({*taken[origin], *held[origin]})
            if found != list(places[: len(found)]) or (len(found) < len(places) and not has_ended):
                self._lost.append(f"{stream}: of {origin} it took {found}, not {places}")
        for origin in taken.keys() - inputs.keys():
            self._wrong.append(f"{stream}: it took {taken[origin]} of {origin}, which are not for it")

    def _check_held(self, stream: str, events: Sequence[tuple[Event, Commit]]) -> None:
        """Check that what was held is taken in before any other event, but for the one that starts the process."""
        held = {(event.stream, event.place) for event, _ in events if isinstance(event, InputHeld)}
        taken = [(event.stream, event.place) for event, _ in events if isinstance(event, InputTaken)]
        if taken and (left := held - set(taken)) and not any(isinstance(event, Ended) for event, _ in events):
            self._lost.append(f"{stream}: these events are held: {sorted(left)}")
        if early := set(taken[1 : len(held) + 1]) - held:
            self._wrong.append(f"{stream}: {sorted(early)} was taken before what was held")

    def _check_timers(self, stream: str, events: Sequence[tuple[Event, Commit]], *, has_ended: bool) -> None:
        started: dict[int, TimerStarted] = {}
        ends: dict[int, list[str]] = defaultdict(list)
        for event, commit in events:
            if isinstance(event, TimerStarted):
                started[event.number] = event
            elif isinstance(event, TimerFired):
                ends[event.number].append("fired")
                if event.at < event.due or event.due != started[event.number].due:
                    self._wrong.append(f"{stream}: timer {event.number} fired {(event.due - event.at) / 1e6} s early")
                if event.at > self._latest.get(commit.id, event.at):
                    self._wrong.append(f"{stream}: timer {event.number} fired at a time that no clock has shown")
            elif isinstance(event, TimerHandled):
                ends[event.number].append("handled")
            elif isinstance(event, TimerCancelled):
                ends[event.number].append("cancelled")
        self._timers += len(started)
        for number, timer in started.items():
            what, end = f"{stream}: timer {number}, {timer.name}", ends.pop(number, [])
            if len(set(end)) < len(end):
                self._twice.append(f"{what}: {end}")
            if end not in (["fired", "handled"], ["fired", "cancelled"], ["cancelled"]) and not (has_ended and end):
                self._lost.append(f"{what}: {end}")
        if ends:
            self._wrong.append(f"{stream}: timers {sorted(ends)} were never started")

    def _check_commands(self, stream: str, events: Iterable[Event]) -> set[str]:
        asked: dict[int, CommandRequested | CallRequested] = {}
        outcomes: dict[int, list[Done | Refused | Answered]] = defaultdict(list)
        for event in events:
            if isinstance(event, CommandRequested | CallRequested):
                if event.number in asked:
                    self._twice.append(f"{stream}: two commands have the number {event.number}")
                asked[event.number] = event
            elif isinstance(event, Done | Refused | Answered):
                outcomes[event.number].append(event)
        self._commands += len(asked)
        ids = set[str]()
        for number, command in asked.items():
            found = outcomes.pop(number, [])
            what = f"{stream}: {number}, {getattr(command, 'name', '') or getattr(command, 'service', '')}"
            if len(found) > 1:
                self._twice.append(f"{what} has {len(found)} outcomes")
            if not found:
                self._lost.append(f"{what} has no outcome")
            if isinstance(command, CommandRequested):
                if command.command_id in ids:
                    self._twice.append(f"{what} has the id of another one")
                ids.add(command.command_id)
                self._check_effect(what, command, command.command_id, found[0] if found else None)
        if outcomes:
            self._wrong.append(f"{stream}: outcomes of {sorted(outcomes)}, which were not asked for")
        return ids

    def _check_effect(self, what: str, command: CommandRequested, command_id: str, outcome: Any) -> None:
        """Compare the outcome that the process has recorded with the stream of the target."""
        commits = self._applied.get(command_id, ())
        applied = [each for each in commits if each.events]
        if len(commits) > 1:
            self._twice.append(f"{what} is in {len(commits)} commits of {commits[0].stream}")
        if any(each.stream != f"{command.category}-{command.id}" for each in commits):
            self._wrong.append(f"{what} went to {commits[0].stream}, not to {command.category}-{command.id}")
        if isinstance(outcome, Refused) and applied:
            self._wrong.append(f"{what} is recorded as refused, and was applied")
        if isinstance(outcome, Done):
            if not applied:
                self._lost.append(f"{what} is recorded as done, and was not applied")
            elif outcome.version != applied[0].version:
                self._wrong.append(f"{what} is recorded at version {outcome.version}, not {applied[0].version}")


def _decode_some(codec: Any, commit: Commit) -> Iterable[tuple[int, Event]]:
    """Yield the events of a commit that a codec knows, with their index."""
    body = unpack(commit.payload, commit.stream, commit.version)
    for index, event in enumerate(msgspec.msgpack.decode(body, type=list[msgspec.Raw])):
        with suppress(msgspec.ValidationError):  # it is of a type that the process does not handle
            yield index, codec.decode_event(event)
