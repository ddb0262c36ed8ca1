"""Real events as a test: the past as given, and what a version has recorded as its outcome."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from ..aggregates.aggregate import Aggregate
from ..aggregates.event import Event, tag_of
from ..repository.repository import Repository
from ..store import Store
from ..stream_id import category_of
from .site import Fields

_MOST = 500  # events

Show = Callable[[str, Fields], Fields]


async def write_scenario(store: Store, aggregate: type[Aggregate], stream: str, version: int, *, show: Show) -> str:
    """Return two tests, as Python: the state after all events up to a version, and a command that records its events.

    `show` returns what may be shown of the fields of an event or a state.
    """
    id = stream.partition("-")[2]
    past: list[Event] = []
    recorded: list[Event] = []
    async with aclosing(Repository(aggregate, store).history(id)) as commits:
        async for commit, events in commits:
            past += recorded
            recorded = list(events)
            if commit.version >= version or len(past) > _MOST:
                break
    if len(past) > _MOST:
        return f"# {stream} has more than {_MOST} events up to version {version}; that is too long for a test"
    state = await Repository(aggregate, store).load(id, version=version)
    fields = show(category_of(stream), {name: getattr(state, name) for name in state.__struct_fields__})
    name = aggregate.__name__
    lines = [
        "from eventsrc.testing import given, when",
        *_write_imports(aggregate, [*past, *recorded]),
        "",
        "",
        "def test_state() -> None:",
        *_write_call("    given", [name, *_write_events([*past, *recorded], show), f"id={id!r}"]),
        f"    .then_state({_write_fields(fields)})",
        "",
        "",
        "def test_command() -> None:  # write the command and its arguments for `...`",
        *(_write_call("    given", [name, *_write_events(past, show), f"id={id!r}"]) if past else []),
        "    .when(...)" if past else "    when(...)",
        *_write_call("    .then", _write_events(recorded, show)),
    ]
    return "\n".join(lines).replace("\n    .", ".") + "\n"


def _write_call(function: str, arguments: list[str]) -> list[str]:
    return [f"{function}(", *(f"        {each}," for each in arguments), "    )"]


def _write_imports(aggregate: type[Aggregate], events: list[Event]) -> list[str]:
    modules: dict[str, set[str]] = {}
    for kind in (aggregate, *map(type, events)):
        modules.setdefault(kind.__module__, set()).add(kind.__qualname__.partition(".")[0])
    return [f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(modules.items())]


def _write_events(events: list[Event], show: Show) -> list[str]:
    return [f"{type(each).__qualname__}({_write_fields(_read(each, show))})" for each in events]


def _read(event: Any, show: Show) -> Fields:
    return show(tag_of(type(event)), {name: getattr(event, name) for name in event.__struct_fields__})


def _write_fields(fields: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in fields.items())
