"""The words of a trace, as all its pictures say them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal
from unicodedata import category

from .trace import Handling, ProcessState, Step, TimerState, Trace

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST = 200  # characters of a name or an error
_MOST_EVENTS = 5  # of a step, whose fields are shown
_MOST = 20  # lines of the head about steps that failed, or about processors


def head_lines(trace: Trace) -> Iterator[str]:
    """Yield what is to be said of a whole trace: its size and time, its longest chain, what failed, what is open."""
    yield from size_lines(trace)
    yield from _state_lines(trace)


def size_lines(trace: Trace) -> Iterator[str]:
    """Yield how large a trace is and how long it took, and its longest chain if it has one."""
    events = sum(len(step.events) for step in trace.steps)
    places = f", in {plain(', '.join(trace.places))}" if trace.steps else ""
    counts = f"{show_count(len(trace.steps), 'step')}, {show_count(events, 'event')}"
    yield f"{plain(trace.id)}: {counts}, {show_time(trace.duration)}{places}"
    path = trace.critical_path
    if len(path) > 1:
        hops = [(trace.latency(number) or 0.0, trace.steps[number]) for number in path]
        took, slowest = max(hops, key=lambda hop: hop[0])
        span = (trace.steps[path[-1]].time - trace.steps[path[0]].time) / 1e6
        yield (
            f"longest chain: {show_count(len(path), 'step')}, {show_time(span)}; of these {show_time(took)} before "
            f"{plain(slowest.label)} ({plain(slowest.id)})"
        )


def _state_lines(trace: Trace) -> Iterator[str]:
    for process in trace.processes[:_MOST]:
        yield f"process {plain(process.stream)}: {plain(_describe_process(process))}"
    if len(trace.processes) > _MOST:
        yield f"process: and {len(trace.processes) - _MOST:,} more"
    failed, waiting = trace.failed, _find_waiting(trace)
    for step, handling in failed[:_MOST]:
        yield f"failed: {plain(handling.processor)} at {plain(step.id)}: {explain(handling)}"
    if len(failed) > _MOST:
        yield f"failed: and {len(failed) - _MOST:,} more"
    for processor, steps in list(waiting.items())[:_MOST]:
        more = f" and {len(steps) - 1:,} more" if len(steps) > 1 else ""
        yield f"open: {plain(processor)} has not handled {plain(steps[0].id)}{more}"
    if len(waiting) > _MOST:
        yield f"open: and {len(waiting) - _MOST:,} more processors"
    usual = _find_missing_by_effect(trace)
    for (effect, p95), steps_without in list(usual.items())[:_MOST]:
        within = "" if p95 is None else f" within {show_time(p95)} (p95)"
        more = f" and {len(steps_without) - 1:,} more" if len(steps_without) > 1 else ""
        yield f"usually followed by {plain(effect)}{within}: {plain(steps_without[0])}{more} not yet"
    if len(usual) > _MOST:
        yield f"usually followed: and {len(usual) - _MOST:,} more types of events"
    if not trace.open and any(step.handled for step in trace.steps):
        yield "nothing is open"
    for failure in trace.failures[:_MOST]:
        yield f"not read: {plain(failure)}"
    if len(trace.failures) > _MOST:
        yield f"not read: and {len(trace.failures) - _MOST:,} more"


def _describe_process(process: ProcessState) -> str:
    """Return what a process waits for, and what became of its timers."""
    waits = [*process.pending, *(each for each in process.timers if each.state == "pending")]
    state = "ended" if process.ended else "waits for events" if not waits else "under way"
    return "; ".join(
        [
            state,
            *(f"{each} is pending" for each in process.pending),
            *(f"timer {each.name} {_describe_timer(each)}" for each in process.timers),
        ]
    )


def _describe_timer(timer: TimerState) -> str:
    if timer.state == "pending":
        return f"is due at {show_moment(timer.due)}"
    return f"fired at {show_moment(timer.fired or timer.due)}" if timer.state == "fired" else "was cancelled"


def _find_missing_by_effect(trace: Trace) -> dict[tuple[str, float | None], list[str]]:
    """Return the steps that lack a usual effect, by the effect and its usual time."""
    found: dict[tuple[str, float | None], list[str]] = {}
    for each in trace.missing:
        found.setdefault((each.effect, each.p95), []).append(each.step)
    return found


def _find_waiting(trace: Trace) -> dict[str, list[Step]]:
    """Return the steps that are open without an error, by processor."""
    found: dict[str, list[Step]] = {}
    for step, handling in trace.open:
        if not handling.error:
            found.setdefault(handling.processor, []).append(step)
    return found


def show_step(trace: Trace, numbers: Sequence[int]) -> list[str]:
    """Return the parts of the line of a step, or of steps that are drawn as one."""
    step, latency = trace.steps[numbers[0]], trace.latency(numbers[0])
    if len(numbers) > 1:
        parts = [plain(step.label), *summarize(trace, numbers), f"{plain(step.id)} …"]
    else:
        parts = [plain(step.label), plain(step.id), "" if latency is None else show_latency(latency)]
    return [part for part in [*parts, describe(step)] if part]


def summarize(trace: Trace, numbers: Sequence[int]) -> list[str]:
    """Return what is to be said of steps that are drawn as one: how many, how long, how many failed or are open."""
    parts = [f"x {len(numbers):,}"]
    latencies = sorted(found for number in numbers if (found := trace.latency(number)) is not None)
    if latencies:
        parts.append(f"p95 {show_time(max(0.0, latencies[(len(latencies) * 95 - 1) // 100]))}")
    failed = sum(has_failed(trace.steps[number]) for number in numbers)
    waiting = sum(is_open(trace.steps[number]) for number in numbers) - failed
    return [*parts, *(f"{count:,} {state}" for count, state in ((failed, "failed"), (waiting, "open")) if count)]


def name_state(steps: Sequence[Step]) -> Literal["done", "open", "failed", "unreadable"]:
    """Return the worst that is true of one of these steps."""
    if any(step.damage for step in steps):
        return "unreadable"
    return "failed" if any(map(has_failed, steps)) else "open" if any(map(is_open, steps)) else "done"


def has_failed(step: Step) -> bool:
    return any(each.is_open and each.error for each in step.handled)


def is_open(step: Step) -> bool:
    return any(each.is_open for each in step.handled)


def describe(step: Step) -> str:
    """Return where a step was made, and by what."""
    details = [
        step.place,
        step.handler or (f"command {step.command_id}" if step.command_id else ""),
        f"attempt {step.attempt}" if step.attempt > 1 else "",
        step.actor and f"by {step.actor}",
    ]
    return ", ".join(plain(detail) for detail in details if detail)


def note(trace: Trace, numbers: Sequence[int]) -> Iterator[str]:
    """Yield what is to be said of a step, or of steps that are drawn as one, besides its line."""
    step = trace.steps[numbers[0]]
    if step.damage:
        yield f"! {plain(step.damage)}"
    if len(numbers) > 1:
        return
    about = [(event.tag if len(step.events) > 1 else "", event.about) for event in step.events if event.about]
    yield from (plain(f"{tag} {text}".lstrip()) for tag, text in about[:_MOST_EVENTS])
    if len(about) > _MOST_EVENTS:
        yield f"and {show_count(len(about) - _MOST_EVENTS, 'more event')}"
    indirect = set[int]()
    if any(event.tag.startswith("process.") for event in step.events):  # what asked for a command is a cause, too
        indirect.update(cause for parent in step.parents for cause in trace.steps[parent].parents)
    others = [trace.steps[parent].id for parent in step.parents[:-1] if parent not in indirect]
    if others:
        more = f" and {len(others) - 3:,} more" if len(others) > 3 else ""
        yield f"also after {plain(', '.join(others[:3]))}{more}"
    if step.outside:
        more = f" and {len(step.outside) - 3:,} more" if len(step.outside) > 3 else ""
        yield f"caused by {plain(', '.join(step.outside[:3]))}{more}, not in this trace"
    for handling in step.handled:
        if handling.is_open or handling.state == "skipped":
            yield f"! {plain(handling.processor)}: {explain(handling)}"


def explain(handling: Handling) -> str:
    attempts = f" after {show_count(handling.attempts, 'attempt')}" if handling.attempts else ""
    error = f": {plain(handling.error)}" if handling.error else ""
    return f"{handling.state}{attempts}{error}"


def show_latency(seconds: float) -> str:
    """Return a time between two steps. The clocks of two machines may differ."""
    return f"+{show_time(seconds)}" if seconds >= 0 else f"clock skew {show_time(-seconds)}"


def show_time(seconds: float) -> str:
    """Return a duration in at most two units: `0.3 ms`, `12 ms`, `1.25 s`, `2 h 4 min`, `3 d 2 h`."""
    if seconds < 0.01:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    for unit, size, smaller, part in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size:,} {unit}" + (f" {rest} {smaller}" if rest else "")
    raise AssertionError(seconds)


def show_moment(time: int) -> str:
    """Return a time in µs since the epoch as `2026-01-31 12:00:00Z`; a time that no calendar has, as a number."""
    try:
        return f"{_EPOCH + timedelta(microseconds=time):%Y-%m-%d %H:%M:%SZ}"
    except OverflowError:
        return f"{time} µs"


def show_count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def plain(text: str) -> str:
    """Return a text on one line, cut after 200 characters.

    Each character that is not printable is escaped, and so are the further ones of more than three accents on a letter,
    which would cover the lines above.
    """
    shown = text
    if not (text.isascii() and text.isprintable()):
        accents, parts = 0, []
        for each in text[: _LONGEST + 1]:
            accents = accents + 1 if category(each) in ("Mn", "Me") else 0
            parts.append(each if each.isprintable() and accents <= 3 else _escape(each))
        shown = "".join(parts)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…"


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
