"""A trace as a tree of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .trace import Handling, Step, Trace

ALIKE = 4
"""Siblings with equal subtrees are drawn as one from this number on."""

_LONGEST = 200  # characters of a name or an error
_DEEPEST = 120  # characters of a line before its step; deeper steps are not indented further
_BRANCH, _LAST, _PIPE, _SPACE, _DEEPER = "├─ ", "└─ ", "│  ", "   ", "↳ "


def draw_tree(trace: Trace, *, alike: int = ALIKE) -> str:
    """Return the head of a trace and its tree: each step below the last of its causes.

    `alike` is the number of siblings from which those with equal subtrees are drawn as one. Give a large one to see all
    of them. Control characters are escaped, so that names cannot drive a terminal.
    """
    lines = [*_head(trace), ""]
    signatures = _signatures(trace)
    # Each entry of the stack: the steps that are drawn as one, and the prefixes of its first line and of the others.
    stack = [(each, "", "") for each in reversed(_group(trace.roots, signatures, alike))]
    while stack:
        numbers, first, rest = stack.pop()
        children = _group(trace.children[numbers[0]], signatures, alike)
        lines.append(first + _line(trace, numbers))
        below = rest + (_PIPE if children else _SPACE)
        lines += [below + text for text in _notes(trace, numbers)]
        for place, each in reversed(list(enumerate(children, 1))):
            is_last = place == len(children)
            if len(rest) < _DEEPEST:
                stack.append((each, rest + (_LAST if is_last else _BRANCH), rest + (_SPACE if is_last else _PIPE)))
            else:
                stack.append((each, rest + _DEEPER, rest))
    return "\n".join(line.rstrip() for line in lines)


def _head(trace: Trace) -> Iterator[str]:
    events = sum(len(step.events) for step in trace.steps)
    counts = f"{_count(len(trace.steps), 'step')}, {_count(events, 'event')}"
    yield f"{plain(trace.id)}: {counts}, {show_time(trace.duration)}, in {plain(', '.join(trace.places))}"
    path = trace.critical_path
    if len(path) > 1:
        hops = [(trace.latency(number) or 0.0, trace.steps[number]) for number in path]
        took, slowest = max(hops, key=lambda hop: hop[0])
        span = (trace.steps[path[-1]].time - trace.steps[path[0]].time) / 1e6
        yield (
            f"longest chain: {_count(len(path), 'step')}, {show_time(span)}; of these {show_time(took)} before "
            f"{plain(slowest.label)} ({plain(slowest.id)})"
        )
    for step, handling in trace.failed:
        yield f"failed: {plain(handling.processor)} at {plain(step.id)}: {_explain(handling)}"
    waiting: dict[str, list[Step]] = {}
    for step, handling in trace.open:
        if not handling.error:
            waiting.setdefault(handling.processor, []).append(step)
    for processor, steps in waiting.items():
        more = f" and {len(steps) - 1:,} more" if len(steps) > 1 else ""
        yield f"open: {plain(processor)} has not handled {plain(steps[0].id)}{more}"
    if not trace.open and any(step.handled for step in trace.steps):
        yield "nothing is open"
    for failure in trace.failures:
        yield f"not read: {plain(failure)}"


def _line(trace: Trace, numbers: Sequence[int]) -> str:
    step = trace.steps[numbers[0]]
    parts = [plain(step.label)]
    latencies = sorted(found for number in numbers if (found := trace.latency(number)) is not None)
    if len(numbers) > 1:
        parts.append(f"x {len(numbers):,}")
        if latencies:
            parts.append(f"p95 {show_time(max(0.0, latencies[(len(latencies) * 95 - 1) // 100]))}")
        failed = sum(any(each.error for each in trace.steps[number].handled) for number in numbers)
        parts += [f"{failed:,} failed"] if failed else []
        parts.append(f"{plain(step.id)} …")
    else:
        parts.append(plain(step.id))
        parts += [show_latency(latencies[0])] if latencies else []
    source = step.handler or (f"command {step.command_id}" if step.command_id else "")
    details = [
        step.place,
        source,
        f"attempt {step.attempt}" if step.attempt > 1 else "",
        step.actor and f"by {step.actor}",
    ]
    parts.append(", ".join(plain(detail) for detail in details if detail))
    return "  ".join(part for part in parts if part)


def _notes(trace: Trace, numbers: Sequence[int]) -> Iterator[str]:
    """Yield what is to be said of one step besides its line."""
    step = trace.steps[numbers[0]]
    if step.damage:
        yield f"! {plain(step.damage)}"
    if len(numbers) > 1:
        return
    others = [trace.steps[parent].id for parent in step.parents[:-1]]
    if others:
        more = f" and {len(others) - 3:,} more" if len(others) > 3 else ""
        yield f"also after {plain(', '.join(others[:3]))}{more}"
    if step.outside:
        more = f" and {len(step.outside) - 3:,} more" if len(step.outside) > 3 else ""
        yield f"caused by {plain(', '.join(step.outside[:3]))}{more}, not in this trace"
    for handling in step.handled:
        if handling.is_open:
            yield f"! {plain(handling.processor)}: {_explain(handling)}"


def _explain(handling: Handling) -> str:
    attempts = f" after {_count(handling.attempts, 'attempt')}" if handling.attempts else ""
    error = f": {plain(handling.error)}" if handling.error else ""
    return f"{handling.state}{attempts}{error}"


def _signatures(trace: Trace) -> list[int]:
    """Return a number for each step; steps have the same one if their subtrees look the same."""
    known: dict[object, int] = {}
    found = [0] * len(trace.steps)
    for number in range(len(trace.steps) - 1, -1, -1):  # children come after their parents
        step = trace.steps[number]
        below = tuple(sorted(found[child] for child in trace.children[number]))
        key = (step.label, step.place, step.handler, step.damage, below)
        found[number] = known.setdefault(key, len(known))
    return found


def _group(numbers: Sequence[int], signatures: Sequence[int], alike: int) -> list[list[int]]:
    """Return siblings in groups: those with the same signature together if there are many, each other one alone."""
    groups: dict[int, list[int]] = {}
    for number in numbers:
        groups.setdefault(signatures[number], []).append(number)
    found = [[number] for number in numbers if len(groups[signatures[number]]) < alike]
    found += [each for each in groups.values() if len(each) >= alike]
    return sorted(found)


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


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def plain(text: str) -> str:
    """Return a text on one line, with each character that is not printable escaped, cut after 200 characters."""
    shown = text if text.isprintable() else "".join(each if each.isprintable() else _escape(each) for each in text)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…"


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
