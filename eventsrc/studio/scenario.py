"""Real events as a test: the past as given, and what a version has recorded as its outcome."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import aclosing
from enum import Enum
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
        *_write_imports(
            [aggregate, *map(type, (*past, *recorded)), *_find_types([*past, *recorded, *fields.values()])]
        ),
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


def _write_imports(kinds: Iterable[type[Any]]) -> list[str]:
    modules: dict[str, set[str]] = {}
    for kind in kinds:
        if kind.__module__ == "datetime":  # its values are shown as datetime.date(...)
            modules["datetime"] = set()
        elif kind.__module__ != "builtins":
            modules.setdefault(kind.__module__, set()).add(kind.__qualname__.partition(".")[0])
    return [
        f"from {module} import {', '.join(sorted(names))}" if names else f"import {module}"
        for module, names in sorted(modules.items())
    ]


def _find_types(values: Iterable[Any]) -> Iterator[type[Any]]:
    """Yield the types of values, and of what is in them."""
    left = list(values)
    while left:
        value = left.pop()
        yield type(value)
        if isinstance(value, Mapping):
            left += [*value.keys(), *value.values()]
        elif isinstance(value, Collection) and not isinstance(value, str | bytes | bytearray):
            left += value
        elif fields := getattr(type(value), "__struct_fields__", None) or getattr(
            type(value), "__dataclass_fields__", None
        ):
            left += [getattr(value, name) for name in fields]


def _write_events(events: list[Event], show: Show) -> list[str]:
    return [f"{type(each).__qualname__}({_write_fields(_read(each, show))})" for each in events]


def _read(event: Any, show: Show) -> Fields:
    return show(tag_of(type(event)), {name: getattr(event, name) for name in event.__struct_fields__})


def _write_fields(fields: dict[str, Any]) -> str:
    return ", ".join(f"{name}={_write_value(value)}" for name, value in fields.items())


def _write_value(value: Any) -> str:
    """Return a value as Python. What has a text of its own that is not Python is left to the reader."""
    if isinstance(value, Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if type(value) in (list, tuple, set, frozenset, dict):
        written = _CONTAINERS[type(value)](value) if value or type(value) in (list, dict) else None
        if written is not None:
            return written
    return repr(value)


def _write_pair(pair: tuple[Any, Any]) -> str:
    return f"{_write_value(pair[0])}: {_write_value(pair[1])}"


def _write_items(values: Iterable[Any]) -> str:
    return ", ".join(map(_write_value, values))


_CONTAINERS: Mapping[type[Any], Callable[[Any], str]] = {
    list: lambda value: f"[{_write_items(value)}]",
    tuple: lambda value: f"({_write_items(value)}{',' if len(value) == 1 else ''})",
    set: lambda value: f"{{{_write_items(value)}}}",
    frozenset: lambda value: f"frozenset({{{_write_items(value)}}})",
    dict: lambda value: (
        "{" + ", ".join(f"{_write_value(key)}: {_write_value(each)}" for key, each in value.items()) + "}"
    ),
}
