"""Ways to break processes and commands of handlers, each of which their campaign must detect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from eventsrc.processes import deciding, steps
from eventsrc.processes.firing import Firing
from eventsrc.processes.process import Input, Process
from eventsrc.processes.steps import Steps
from eventsrc.processing import Effects
from eventsrc.processing.membership import Member
from eventsrc.processing.projections.issuing import Issuer, Issuing
from eventsrc.repository.execution import Execution

from .mutants import Patch, Verdict
from .processes import Bank, Sales, Story, tell, tell_picks
from .reading_mutants import edited
from .reading_mutants import hunt as hunt_in

Tell = Callable[[int, Path], Story]


def sales(seed: int, folder: Path) -> Story:
    """Play one history of orders."""
    return tell(seed, folder, (Sales,))


def transfers(seed: int, folder: Path) -> Story:
    """Play one history of transfers."""
    return tell(seed, folder, (Bank,))


class _Code:
    """The code of a function as an attribute that can be patched: deleting it restores the first one."""

    def __init__(self, function: Any) -> None:
        self._function, self._first = function, function.__code__

    @property
    def code(self) -> Any:
        return self._function.__code__

    @code.setter
    def code(self, code: Any) -> None:
        self._function.__code__ = code

    @code.deleter
    def code(self) -> None:
        self._function.__code__ = self._first


def _state(handler: Any, *changes: tuple[str, str]) -> Patch:
    """Return a patch of a handler of state. Classes that have it have found it before, so its code is replaced."""
    _, _, changed = edited(Process, handler.__name__, *changes)
    return _Code(handler), "code", changed.__code__


def old_commands_not_found() -> list[Patch]:
    """Only the remembered command ids are compared: the version from before the command was issued is ignored."""
    return [edited(Execution, "__init__", ("MAX_VERSION if terms.since is None else terms.since", "MAX_VERSION"))]


def commands_searched_from_now() -> list[Patch]:
    """The version of the target is not that from before the command was asked for, but that of this attempt."""
    now = "since=await read_version(repository, asked.id)"
    return [edited(Steps, "issue", ("since=asked.since", now))]


def issued_version_not_stored() -> list[Patch]:
    """`context.execute` takes the version of the target at each attempt, and stores none."""
    return [edited(Issuing, "since", ("stream = repository", "return version\n    stream = repository"))]


def issued_version_of_an_older_event_guessed() -> list[Patch]:
    """An event that is handled again after later ones counts as one that was never handled."""
    return [edited(Issuer, "issue", ("return -1", "return version"))]


def one_number_for_all_commands() -> list[Patch]:
    """The id of a command of `context.execute` does not say which command of the handler it is."""
    return [edited(Issuing, "command_id", (":{number}", ""))]


def command_id_without_number() -> list[Patch]:
    """The commands of a process have the same id."""
    return [edited(deciding, "_ask", (":{process.stream}:{number}", ":{process.stream}"))]


def refusal_decided_again() -> list[Patch]:
    """A refusal is not stored, so another delivery may be applied."""
    pending = ("if not await self._is_pending(context, asked.number):", "if False:")
    return [edited(Execution, "_refuse", ("if version:", "if False:")), edited(Steps, "issue", pending)]


def refusal_taken_for_an_application() -> list[Patch]:
    """A command that was refused before counts as applied."""
    return [edited(Execution, "_read_receipt", ("check_refused(commit)", "pass"))]


def place_not_compared() -> list[Patch]:
    """An input is taken in each time that it is delivered."""
    place = "given.place <= instance.inputs.get(given.origin, (0, 0, 0))"
    return [edited(steps, "take_event", (place, "False"))]


def place_set_back() -> list[Patch]:
    """An event that was held sets back the place of its stream."""
    return [_state(Process.apply_input_taken, ("max(before, event.place)", "event.place"))]


def held_events_overtaken() -> list[Patch]:
    """Other events are handled before those that were held."""
    return [edited(steps, "take_event", ("if instance.started and instance.held:", "if False:"))]


def sources_mixed_up() -> list[Patch]:
    """Streams of one name in two stores count as one."""
    return [(Input, "origin", property(lambda given: given.stream))]


def held_events_dropped() -> list[Patch]:
    """What came before the start is not handled after it."""
    kept = "[each for each in self.instance.held if (each.stream, each.place) != _place_of(event)]"
    return [_state(Process.apply_input_taken, (kept, "[]"))]


def events_after_the_end_taken() -> list[Patch]:
    """A process that has ended takes events in."""
    return [edited(steps, "take_event", ("instance.ended or ", ""))]


def outcome_taken_twice() -> list[Patch]:
    """The outcome of a command is taken in whether or not it is pending."""
    check = ("if str(outcome.number) not in process.instance.pending:", "if False:")
    drop = ("del self.instance.pending[str(event.number)]", "self.instance.pending.pop(str(event.number), None)")
    return [
        edited(steps, "take_outcome", check),
        _state(Process.apply_outcome, drop),
        (steps, "is_pending", lambda process, number: True),
    ]


def timer_handled_twice() -> list[Patch]:
    """The event of a timer is handled each time that it is delivered."""
    known = "timer = process.instance.fired.get(fired.name)"
    event = "events = _decode(process, timer.event)"
    made = (
        "started = next(e for e in codec_of(type(process)).types if e.__struct_config__.tag == fired.name)\n"
        "    events = [started()]"
    )
    return [
        edited(
            steps,
            "take_timer",
            (known, "timer = fired"),
            (event, made),
        )
    ]


def timer_removed_before_it_is_fired() -> list[Patch]:
    """A due timer is removed first, so that a kill in between loses it."""
    fire, remove = "await self._fire(timer, now)", "await self._timers.remove(self._processor, timer)"
    return [edited(Firing, "_fire_part", (remove, "REMOVE"), (fire, remove), ("REMOVE", fire))]


def timer_fired_without_its_number() -> list[Patch]:
    """A timer fires another one that has its name."""
    return [edited(steps, "fire_timer", ("timer.number == number and timer.due <= now and ", ""))]


def timer_fired_early() -> list[Patch]:
    """Timers fire when they are looked at."""
    early = ("timer.due <= now and ", "")
    return [
        edited(steps, "fire_timer", early),
        edited(Firing, "_fire_part", ("self._clock()\n", "2**62\n")),
        edited(Firing, "_is_due", ("self._next[part] <= self._clock()", "True")),
    ]


def time_of_firing_made_up() -> list[Patch]:
    """Timers fire when they are looked at, and record the time at which they are due."""
    return [
        *timer_fired_early()[1:],
        edited(steps, "fire_timer", ("timer.due <= now and ", ""), ("at=now", "at=timer.due")),
    ]


def timer_not_stored() -> list[Patch]:
    """A timer is only remembered, so a kill loses it."""
    return [edited(Firing, "put", ("await self._timers.put(self._processor, timer)", "pass"))]


def position_before_the_step() -> list[Patch]:
    """The position is written before a step, so a worker that is killed in between skips it."""
    advance = "        await self._checkpoints.advance(self.name, run.part(index, index + 1))\n"
    loop = "for index, commit in enumerate(run.commits):\n"
    return [edited(Effects, "_handle", (advance, ""), (loop, loop + advance))]


def replaced_timer_not_cancelled() -> list[Patch]:
    """A timer that replaces another one does not cancel it."""
    return [edited(deciding, "start_timer", ("cancel_timer(process, timer.name)", "pass"))]


def timers_left_at_the_end() -> list[Patch]:
    """The end of a process does not cancel its timers."""
    return [edited(deciding, "_ask", ("_cancel(process, name, timer)", "pass"))]


def create_forgotten() -> list[Patch]:
    """A command on a new aggregate finds none."""
    return [edited(Steps, "issue", ("create=asked.create", "create=False"))]


def slots_for_workers_of_others() -> list[Patch]:
    """Slots are spread over workers that do not run the processor."""
    return [(Member, "has", lambda *_: True)]


MUTANTS: Sequence[tuple[Callable[[], list[Patch]], Tell]] = (
    (old_commands_not_found, transfers),
    (commands_searched_from_now, transfers),
    (issued_version_not_stored, tell_picks),
    (issued_version_of_an_older_event_guessed, tell_picks),
    (one_number_for_all_commands, tell_picks),
    (command_id_without_number, transfers),
    (refusal_decided_again, sales),
    (refusal_taken_for_an_application, sales),
    (place_not_compared, sales),
    (place_set_back, sales),
    (held_events_overtaken, sales),
    (sources_mixed_up, sales),
    (held_events_dropped, sales),
    (events_after_the_end_taken, sales),
    (outcome_taken_twice, sales),
    (timer_handled_twice, sales),
    (timer_removed_before_it_is_fired, sales),
    (timer_fired_without_its_number, sales),
    (timer_fired_early, sales),
    (time_of_firing_made_up, sales),
    (timer_not_stored, sales),
    (position_before_the_step, sales),
    (replaced_timer_not_cancelled, sales),
    (timers_left_at_the_end, sales),
    (create_forgotten, sales),
    (slots_for_workers_of_others, sales),
)
PROCESSES = tuple(mutant for mutant, _ in MUTANTS)


def hunt(mutant: Callable[[], list[Patch]], seeds: Sequence[int]) -> Verdict:
    """Return the first of these seeds in which the campaign detects the mutant."""
    return hunt_in(mutant, seeds, MUTANTS)
