"""Which handler takes which event: read off the annotations of an aggregate class, once, and checked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import FunctionType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec.inspect import type_info

from ..errors import DeclarationError
from ..stream_id import check_category
from .codec import Codec
from .event import UNTAGGED, Event, Upcaster, tag_of

Handler = Callable[[Any, Any], None]


class Declaration(msgspec.Struct, frozen=True):
    """What an aggregate class declares."""

    category: str
    handlers: Mapping[type[Event], Handler]
    upcasters: Mapping[type[Event], Upcaster]
    codec: Codec
    snapshot_type: Any


def declaration_of(aggregate: type[Any]) -> Declaration:
    """What an aggregate class declares, read and checked once. Raises DeclarationError, which names the culprit."""
    declaration = _known.get(aggregate)
    if declaration is None:
        declaration = _known[aggregate] = _read(aggregate)
    return declaration


_known: dict[type[Any], Declaration] = {}


def _read(aggregate: type[Any]) -> Declaration:
    given: object = aggregate
    if not (isinstance(given, type) and _framework_classes(given)):
        raise DeclarationError(getattr(aggregate, "__qualname__", repr(aggregate)), "is not a subclass of Aggregate")
    name = aggregate.__qualname__
    handlers = _handlers(aggregate)
    upcasters = upcasters_by_type(aggregate.upcasters, name)
    for old, upcaster in upcasters.items():
        if old in handlers:
            raise DeclarationError(
                name_of(handlers[old]), f"handles {old.__qualname__}, which {name_of(upcaster)} upcasts"
            )
        for new in _returned(upcaster):
            if new not in handlers and new not in upcasters:
                raise DeclarationError(name_of(upcaster), f"returns {new.__qualname__}, which {name} does not handle")
    events = [*handlers, *upcasters]
    check_tags(events, name)
    for event in events:
        check_event(event)
    category = _category(aggregate)
    _check_state(aggregate)
    return Declaration(category, handlers, upcasters, Codec(events, upcasters), _snapshot_type(aggregate))


def upcasters_by_type(upcasters: object, culprit: str) -> dict[type[Event], Upcaster]:
    """Each upcaster under the event class it takes. Raises DeclarationError: bad signature, pair or circle."""
    if not isinstance(upcasters, (tuple, list)):
        raise DeclarationError(f"{culprit}.upcasters", "is not a tuple or list of functions")
    found: dict[type[Event], Upcaster] = {}
    for upcaster in upcasters:
        if not isinstance(upcaster, FunctionType):
            raise DeclarationError(f"{culprit}.upcasters", f"{upcaster!r} is not a function with annotations")
        if (parameter := _last_parameter(upcaster, 1)) is None:
            raise DeclarationError(name_of(upcaster), "an upcaster is a plain function: def upcast(old: X) -> Y")
        for old in event_types(hints_of(upcaster).get(parameter), upcaster, parameter):
            if old in found:
                raise DeclarationError(
                    name_of(upcaster), f"upcasts {old.__qualname__}, and so does {name_of(found[old])}"
                )
            found[old] = upcaster
    for start in found:
        reached, seen = {start}, {start}
        while reached:
            reached = {new for old in reached if old in found for new in _returned(found[old])}
            if start in reached:
                raise DeclarationError(name_of(found[start]), f"leads from {start.__qualname__} back to itself")
            reached -= seen
            seen |= reached
    return found


def check_tags(events: list[type[Event]], culprit: str) -> None:
    """Raise DeclarationError if two event classes share a tag."""
    by_tag: dict[str, type[Event]] = {}
    for event in events:
        other = by_tag.setdefault(tag_of(event), event)
        if other is not event:
            names = f"{other.__qualname__} and {event.__qualname__}"
            raise DeclarationError(culprit, f"{names} have the same tag {tag_of(event)!r}")


def check_event(event: type[Event]) -> None:
    """Raise DeclarationError unless events of this class are stored as frozen maps, like all others, and read back."""
    config = event.__struct_config__
    ours = config.frozen and config.eq and not config.array_like
    if not ours or config.tag_field != Event.__struct_config__.tag_field:
        raise DeclarationError(
            event.__qualname__, "sets frozen, eq, array_like or tag_field, which are the framework's"
        )
    _resolved(event.__qualname__, lambda: type_info(event))


def _handlers(aggregate: type[Any]) -> dict[type[Event], Handler]:
    found: dict[type[Event], Handler] = {}
    for name in dir(aggregate):
        if not name.startswith("apply_"):
            continue
        handler = inspect.getattr_static(aggregate, name)
        culprit = f"{aggregate.__qualname__}.{name}"
        if not isinstance(handler, FunctionType) or (parameter := _last_parameter(handler, 2)) is None:
            raise DeclarationError(culprit, "a handler is a plain method: def apply_x(self, event: X) -> None")
        for event in event_types(hints_of(handler).get(parameter), handler, parameter):
            if event in found:
                raise DeclarationError(culprit, f"handles {event.__qualname__}, and so does {name_of(found[event])}")
            found[event] = handler
    if not found:
        raise DeclarationError(aggregate.__qualname__, "has no apply_* handler; without events it has no state")
    return found


def _last_parameter(function: FunctionType, count: int) -> str | None:
    """The last of `count` positional parameters; None if it takes others, or if calling it does not yet run it."""
    parameters = list(inspect.signature(function).parameters.values())
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    deferred = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
    if function.__code__.co_flags & deferred or [each.kind in positional for each in parameters] != [True] * count:
        return None
    return parameters[-1].name


def event_types(annotation: Any, function: FunctionType, parameter: str) -> list[type[Event]]:
    """The event classes that a parameter is annotated with. Raises DeclarationError."""
    if annotation is None:
        raise DeclarationError(name_of(function), f"annotate {parameter!r} with its event class, or a union of them")
    return _members(annotation, function)


def _returned(upcaster: Upcaster) -> list[type[Event]]:
    hints = hints_of(upcaster)
    if "return" not in hints:
        raise DeclarationError(name_of(upcaster), "annotate what it returns with the new event class")
    return _members(hints["return"], upcaster)


def _members(annotation: Any, function: Callable[..., Any]) -> list[type[Event]]:
    annotation = getattr(annotation, "__value__", annotation)  # `type Movement = Deposited | Withdrawn`
    origin = get_origin(annotation)
    if origin is Annotated:
        return _members(get_args(annotation)[0], function)
    if origin in (Union, UnionType):
        return [event for member in get_args(annotation) for event in _members(member, function)]
    if not (isinstance(annotation, type) and issubclass(annotation, Event)):
        raise DeclarationError(name_of(function), f"{annotation!r} is not a subclass of Event")
    tag_of(annotation)
    return [annotation]


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    hints: dict[str, Any] = _resolved(name_of(function), lambda: get_type_hints(function, include_extras=True))
    return hints


def _resolved(culprit: str, resolve: Callable[[], Any]) -> Any:
    """What `resolve` reads off annotations. Raises DeclarationError if Python or msgspec cannot."""
    try:
        return resolve()
    except NameError as error:
        reason = f"annotation {error.name!r} is not known in its module; define or import it at module level"
    except (AttributeError, SyntaxError, TypeError) as error:
        reason = f"an annotation makes no sense: {error}"
    raise DeclarationError(culprit, reason)


def _category(aggregate: type[Any]) -> str:
    name = aggregate.__qualname__
    category = aggregate.__struct_config__.tag
    if not isinstance(category, str) or not category or category.startswith(UNTAGGED):
        raise DeclarationError(name, f'has no tag, its stream category; write `class {name}(Aggregate, tag="...")`')
    check_category(category, name)
    return category


def _check_state(aggregate: type[Any]) -> None:
    name = aggregate.__qualname__
    ours = _framework_classes(aggregate)
    for field in _resolved(name, lambda: msgspec.structs.fields(aggregate)):
        culprit = f"{name}.{field.name}"
        if field.name == "id":
            continue
        if any(field.name in vars(base) for base in ours):
            raise DeclarationError(
                culprit, "is the framework's name, so no field; a setting is written without annotation"
            )
        if field.required:
            raise DeclarationError(culprit, "has no default; a new aggregate starts from the defaults of its fields")
        if field.default is not msgspec.NODEFAULT and type(field.default).__hash__ is None:
            raise DeclarationError(culprit, "has a default that all aggregates would share; use a default_factory")
    for setting in ("snapshot_version", "remembered_commands"):
        value = getattr(aggregate, setting)
        if type(value) is not int or value < 0:
            raise DeclarationError(f"{name}.{setting}", f"is {value!r}; it is a number from 0 on")
    for base in aggregate.__mro__[:-1]:
        if base not in ours and (taken := sorted(_FRAMEWORK_NAMES & vars(base).keys())):
            raise DeclarationError(
                f"{name}.{taken[0]}", "is the framework's name; derive state in handlers or properties"
            )
    if aggregate.__dictoffset__:
        raise DeclarationError(name, "has a base without __slots__ = (), whose attributes would be lost in a snapshot")


_FRAMEWORK_NAMES = {"__post_init__", "_journal", "record", "stream", "version", "uncommitted"}


def _framework_classes(aggregate: type[Any]) -> list[type[Any]]:
    return [base for base in aggregate.__mro__ if base.__module__ == f"{__package__}.aggregate"]


def _snapshot_type(aggregate: type[Any]) -> Any:
    name = aggregate.__qualname__
    makers = [inspect.getattr_static(aggregate, verb) for verb in ("to_snapshot", "from_snapshot")]
    ours = [_function(maker).__module__ == f"{__package__}.aggregate" for maker in makers]
    if any(ours) and not all(ours):
        raise DeclarationError(name, "overrides one of to_snapshot and from_snapshot; it takes both")
    culprit = name if all(ours) else f"{name}.to_snapshot"
    returned = aggregate if all(ours) else hints_of(_function(makers[0])).get("return", Any)
    if returned is Any:
        raise DeclarationError(culprit, "annotate what it returns; that is what a snapshot decodes to")
    _resolved(culprit, lambda: type_info(returned))
    return returned


def _function(method: Any) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(method, "__func__", method)
    return function


def name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))
