"""The projections that move processes: one takes in events, one issues commands, one keeps the timers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import reduce
from operator import or_
from types import new_class
from typing import Any

from ..aggregates.declaration import declaration_of
from ..aggregates.event import Event
from ..errors import CommitOutcomeUnknown
from ..processing.projections.effects import Effects
from ..processing.projections.issuing import EffectContext
from ..retrying import TRANSIENT
from ..trace_context import TraceContext, enter, leave, trace_id_of
from .events import CallRequested, CommandRequested, TimerCancelled, TimerFired, TimerStarted
from .firing import Firing
from .handlers import handlers_of
from .process import Process
from .steps import Steps
from .timers import Due, Timers

Handle = Callable[[Any, EffectContext], Awaitable[None]]


def make_inputs(steps: Steps[Any], source: str) -> Effects:
    """Return the projection that takes in the events of a source, which is "" for the only one."""
    process = steps.repository.aggregate_class
    union: Any = reduce(or_, handlers_of(process).inputs)

    async def take(event: Event, context: EffectContext) -> None:
        await steps.take_event(event, context, source)

    return _make(process, f"inputs-{source}" if source else "inputs", {"handle_input": (union, take)}, is_source=True)


def make_commands(steps: Steps[Any]) -> Effects:
    """Return the projection that issues commands and calls services."""
    handlers: Mapping[str, tuple[Any, Handle]] = {
        "handle_command": (CommandRequested, steps.issue),
        "handle_call": (CallRequested, steps.call),
    }
    return _make(steps.repository.aggregate_class, "commands", handlers)


def make_timers(steps: Steps[Any], timers: Timers, clock: Callable[[], int]) -> tuple[Effects, Firing]:
    """Return the projection that keeps the timers, handles their events, and fires them."""
    process = steps.repository.aggregate_class
    name = f"{_tag_of(process, 'timers')}@1"

    async def fire(timer: Due, now: int) -> None:
        cause = TraceContext(timer.correlation_id, (timer.cause,), {"handler": f"{name}.fire"})
        token = enter(cause)
        try:
            await steps.fire(timer.stream, timer.name, timer.number, now)
        finally:
            leave(token)

    firing = Firing(timers, name, fire, clock)

    async def start(event: TimerStarted, context: EffectContext) -> None:
        trace = trace_id_of(context.commit)
        await firing.put(Due(event.due, context.stream, event.number, event.name, context.id, trace))

    async def cancel(event: TimerCancelled, context: EffectContext) -> None:
        await firing.remove(Due(event.due, context.stream, event.number))

    async def prepare(_self: Effects) -> None:
        await timers.prepare()

    async def attend(_self: Effects, may_act: Callable[[str], bool], held: Callable[[], object]) -> None:
        await firing.run(may_act, held)

    handlers: Mapping[str, tuple[Any, Handle]] = {
        "handle_started": (TimerStarted, start),
        "handle_cancelled": (TimerCancelled, cancel),
        "handle_fired": (TimerFired, steps.take_timer),
    }
    return _make(process, "timers", handlers, prepare=prepare, attend=attend), firing


def _tag_of(process: type[Process], part: str) -> str:
    return f"{declaration_of(process).category}-{part}"


def _make(
    process: type[Process],
    part: str,
    handlers: Mapping[str, tuple[Any, Handle]],
    *,
    is_source: bool = False,
    **methods: Any,
) -> Effects:
    """Return a projection of a class of its own, as its tag and what it handles depend on the class of the process."""
    body: dict[str, Any] = {"__module__": process.__module__, **methods}
    if is_source:
        body["upcasters"] = process.input_upcasters
    else:
        body["categories"] = (declaration_of(process).category,)
    for name, (kind, handle) in handlers.items():
        body[name] = _to_method(name, kind, handle)
    made: Any = new_class(
        f"{process.__name__}_{part}", (Effects,), {"tag": _tag_of(process, part)}, lambda each: each.update(body)
    )
    made.outages = (*TRANSIENT, CommitOutcomeUnknown)  # a target that is down parks no process
    effects: Effects = made()
    return effects


def _to_method(name: str, kind: Any, handle: Handle) -> Callable[..., Awaitable[None]]:
    async def method(self: Effects, event: Any, context: Any) -> None:
        await handle(event, context)

    method.__name__ = method.__qualname__ = name
    method.__annotations__ = {"event": kind, "context": EffectContext}
    return method
