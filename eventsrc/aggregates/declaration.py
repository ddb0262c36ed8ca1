"""Read the handlers and upcasters of an aggregate class from its annotations, once, and check them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from types import FunctionType, NoneType
from typing import Any, TypeVar, get_args, get_origin

import msgspec
from msgspec.inspect import type_info

from ..errors import DeclarationError, UnhandledEvent, kind_of
from ..stream_id import check_category
from .annotations import evaluate_hints, expand_union
from .codec import Codec
from .event import UNTAGGED, Event, Upcaster, tag_of
from .state import StateType, check_fields
from .upcasting import Upcasting

Handler = Callable[[Any, Any], None]


class Declaration(msgspec.Struct, frozen=True):
    """The category, handlers, upcasters and types that an aggregate class declares."""

    category: str
    handlers: Mapping[type[Event], Handler]
    upcasters: Mapping[type[Event], Upcasting]
    codec: Codec
    snapshot_type: Any
    state: StateType  # the snapshot type, as what checks its values


def declaration_of(aggregate: type[Any]) -> Declaration:
    """Return the declaration of an aggregate class, read and checked once. Raises DeclarationError."""
    try:
        declaration = _known.get(aggregate)
    except TypeError:  # aggregate objects, among others, have no hash
        declaration = None
    if declaration is None:
        declaration = _known[aggregate] = _read_declaration(aggregate)
    return declaration


_known: dict[type[Any], Declaration] = {}


def explain_unhandled(aggregate: type[Any], event: object) -> UnhandledEvent:
    """Return the error for an event, or what was given as one, that an aggregate class has no handler for."""
    name, kind = aggregate.__qualname__, event if isinstance(event, type) else type(event)
    reason = ""
    if isinstance(event, type) and issubclass(event, Event):
        reason = f"{kind_of(event)} is not an event; write {event.__qualname__}(...)"
    elif not isinstance(event, Event):
        reason = f"{kind_of(event)} is not an event; give an object of a subclass of Event"
    elif (upcasting := declaration_of(aggregate).upcasters.get(type(event))) is not None:
        successors = " or ".join(new.__qualname__ for new in upcasting.successors) or "nothing: it is dropped"
        reason = f"{kind.__qualname__} is upcast by {upcasting.name}; record {successors}"
    elif (twin := _find_twin(type(event), declaration_of(aggregate).codec.types)) is not None:
        reason = f"this is not the class {kind.__qualname__} that it handles, but {describe_other(twin, kind)}"
    return UnhandledEvent(name, kind.__qualname__, reason)


def explain_twins(known: type[Any], other: type[Any]) -> str:
    """Return why two classes of one name are not the same class, and what to do."""
    if known.__module__ != other.__module__:
        return f"its module was imported twice, as {known.__module__} and {other.__module__}; import it under one name"
    return "it was defined again, as by a notebook cell or a module that ran again; run again what uses the class"


def describe_other(known: type[Any], other: type[Any]) -> str:
    """Return the name of a class that is not the known one and, if both have the same name, what to do."""
    name = other.__qualname__
    return f"another class {name}: {explain_twins(known, other)}" if name == known.__qualname__ else name


def _find_twin(kind: type[Event], others: Iterable[type[Event]]) -> type[Event] | None:
    """Return another class of the same name and tag."""
    name = (kind.__qualname__, kind.__struct_config__.tag)
    return next((each for each in others if (each.__qualname__, each.__struct_config__.tag) == name), None)


def _read_declaration(aggregate: type[Any]) -> Declaration:
    given: object = aggregate
    if not isinstance(given, type) and _find_framework_classes(type(given)):
        name = type(given).__qualname__
        raise DeclarationError(f"{name} object", f"is not a class; give the class, {name}")
    if not (isinstance(given, type) and _find_framework_classes(given)):
        raise DeclarationError(getattr(aggregate, "__qualname__", repr(aggregate)), "is not a subclass of Aggregate")
    name = aggregate.__qualname__
    if missing := sorted(getattr(aggregate, "__abstractmethods__", ())):
        raise DeclarationError(f"{name}.{missing[0]}", "is abstract; write it in a subclass, and use that class")
    handlers = _find_handlers(aggregate)
    upcasters = collect_upcasters(aggregate.upcasters, name, aggregate)
    for old, upcasting in upcasters.items():
        if old in handlers:
            raise DeclarationError(
                get_name(handlers[old]), f"handles {old.__qualname__}, which {upcasting.name} upcasts"
            )
        for new in upcasting.successors:
            if new not in handlers and new not in upcasters:
                twin = _find_twin(new, [*handlers, *upcasters])
                more = f": {explain_twins(twin, new)}" if twin is not None else ""
                reason = f"returns {new.__qualname__}, which {name} does not handle{more}"
                raise DeclarationError(upcasting.name, reason)
    events = [*handlers, *upcasters]
    check_tags(events, name)
    for event in events:
        check_event(event)
    category = _read_category(aggregate)
    _check_state(aggregate)
    snapshot_type, state = _read_snapshot_type(aggregate)
    return Declaration(category, handlers, upcasters, Codec(events, upcasters), snapshot_type, state)


def collect_upcasters(upcasters: object, culprit: str, owner: type[Any] | None = None) -> dict[type[Event], Upcasting]:
    """Return the upcasters by the event class that they take. Raises DeclarationError, also for a cycle.

    `owner` is the class that they are declared in.
    """
    if not isinstance(upcasters, (tuple, list)):
        raise DeclarationError(f"{culprit}.upcasters", "is not a tuple or list of functions")
    found: dict[type[Event], Upcasting] = {}
    for upcaster in upcasters:
        if not isinstance(upcaster, FunctionType):
            raise DeclarationError(f"{culprit}.upcasters", f"{upcaster!r} is not a function with annotations")
        if (parameter := _find_last_parameter(upcaster, 1)) is None:
            raise DeclarationError(
                get_name(upcaster), "is not an upcaster; write a plain function: def upcast(old: X) -> Y"
            )
        hints = read_hints(upcaster, owner)
        upcasting = _read_upcasting(upcaster, hints)
        for old in event_types(hints.get(parameter), upcaster, parameter):
            if old in found:
                raise DeclarationError(upcasting.name, f"upcasts {old.__qualname__}, and so does {found[old].name}")
            found[old] = upcasting
    for start in found:
        reached, seen = {start}, {start}
        while reached:
            reached = {new for old in reached if old in found for new in found[old].successors}
            if start in reached:
                raise DeclarationError(
                    found[start].name, f"leads from {start.__qualname__} back to itself; remove the cycle"
                )
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
            if other.__qualname__ == event.__qualname__:
                raise DeclarationError(culprit, f"uses two classes {event.__qualname__}: {explain_twins(other, event)}")
            raise DeclarationError(culprit, f"{names} have the same tag {tag_of(event)!r}; give each its own")


def check_event(event: type[Event]) -> None:
    """Raise DeclarationError unless events of this class are frozen, are stored as maps, and have readable types."""
    config = event.__struct_config__
    ours = config.frozen and config.eq and not config.array_like
    if not ours or config.tag_field != Event.__struct_config__.tag_field:
        raise DeclarationError(
            event.__qualname__, "sets frozen, eq, array_like or tag_field, which belong to the framework; remove it"
        )
    if (base := _find_same_tag(event)) is not None:
        raise _same_tag_error(event, base)
    check_fields(_resolve(event.__qualname__, lambda: type_info(event)), with_custom=True)


def _find_same_tag(kind: type[Any]) -> type[Any] | None:
    """Return a base class with the same tag. A class that is declared without a tag takes that of its base."""
    tag = kind.__struct_config__.tag
    structs = (base for base in kind.__mro__[1:] if issubclass(base, msgspec.Struct) and base is not msgspec.Struct)
    return next((base for base in structs if base.__struct_config__.tag == tag), None)


def _same_tag_error(kind: type[Any], base: type[Any]) -> DeclarationError:
    return DeclarationError(
        kind.__qualname__,
        f"has the tag of its base {base.__qualname__}, so both would be stored under one name; write `class "
        f'{kind.__name__}({base.__name__}, tag="...")`, or move what they share into a base without a tag',
    )


def _find_handlers(aggregate: type[Any]) -> dict[type[Event], Handler]:
    found: dict[type[Event], Handler] = {}
    for name in dir(aggregate):
        if not name.startswith("apply_"):
            continue
        handler = inspect.getattr_static(aggregate, name)
        culprit = f"{aggregate.__qualname__}.{name}"
        if not isinstance(handler, FunctionType) or (parameter := _find_last_parameter(handler, 2)) is None:
            raise DeclarationError(
                culprit, "is not a handler; write a plain method: def apply_x(self, event: X) -> None"
            )
        for event in event_types(read_hints(handler, aggregate).get(parameter), handler, parameter):
            if event in found:
                raise DeclarationError(culprit, f"handles {event.__qualname__}, and so does {get_name(found[event])}")
            found[event] = handler
    if not found:
        raise DeclarationError(aggregate.__qualname__, "has no apply_* handler; add one for each event")
    return found


def _find_last_parameter(function: FunctionType, count: int) -> str | None:
    """Return the name of the last parameter of a plain function with `count` positional parameters, else None."""
    parameters = list(inspect.signature(function).parameters.values())
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    deferred = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
    if function.__code__.co_flags & deferred or [each.kind in positional for each in parameters] != [True] * count:
        return None
    return parameters[-1].name


def event_types(annotation: Any, function: FunctionType, parameter: str) -> list[type[Event]]:
    """Return the event classes in the annotation of a parameter. Raises DeclarationError."""
    if annotation is None:
        raise DeclarationError(get_name(function), f"annotate {parameter!r} with its event class, or a union of them")
    return _check_events(expand_union(annotation), function)


def _read_upcasting(upcaster: Upcaster, hints: Mapping[str, Any]) -> Upcasting:
    """Return an upcaster with what its return annotation promises: `V2`, `V2 | None`, `list[V2 | V3]`, or a union."""
    if "return" not in hints:
        raise DeclarationError(get_name(upcaster), "annotate its return type with the new event class")
    one, many, may_drop = set[type[Event]](), set[type[Event]](), False
    for member in expand_union(hints["return"]):
        if member is NoneType:
            may_drop = True
        elif get_origin(member) in (list, tuple, Sequence):
            items = [item for item in get_args(member) if item is not Ellipsis]
            many |= {event for item in items for event in _check_events(expand_union(item), upcaster)}
        else:
            one |= set(_check_events([member], upcaster))
    return Upcasting(upcaster, frozenset(one), frozenset(many), may_drop)


def _check_events(annotations: Sequence[Any], function: Callable[..., Any]) -> list[type[Event]]:
    """Return annotations that are event classes. Raises DeclarationError if one of them is not."""
    for annotation in annotations:
        _check_event(annotation, function)
    return list(annotations)


def _check_event(annotation: Any, function: Callable[..., Any]) -> None:
    if isinstance(annotation, TypeVar):
        raise DeclarationError(
            get_name(function),
            f"the type variable {annotation.__name__} stands for no event class; give one to the generic base",
        )
    if not (isinstance(annotation, type) and issubclass(annotation, Event)):
        shown = annotation.__qualname__ if isinstance(annotation, type) and not get_origin(annotation) else annotation
        raise DeclarationError(
            get_name(function),
            f"the annotation {shown} is not a subclass of Event; write the event class, or a union of them",
        )
    tag_of(annotation)


def read_hints(function: Callable[..., Any], owner: type[Any] | None = None) -> dict[str, Any]:
    """Return the annotations of a function that the class `owner` has or uses. Raises DeclarationError."""
    hints: dict[str, Any] = _resolve(get_name(function), lambda: evaluate_hints(function, owner))
    return hints


def _resolve(culprit: str, resolve: Callable[[], Any]) -> Any:
    """Return the result of `resolve`, which reads annotations. Raises DeclarationError if they cannot be resolved."""
    try:
        return resolve()
    except NameError as error:
        reason = f"annotation {error.name!r} is not defined in its module; define or import it at module level"
    except (AttributeError, SyntaxError, TypeError, NotImplementedError) as error:
        reason = f"an annotation cannot be used: {error}"
    raise DeclarationError(culprit, reason)


def _read_category(aggregate: type[Any]) -> str:
    name = aggregate.__qualname__
    category = aggregate.__struct_config__.tag
    if not isinstance(category, str) or not category or category.startswith(UNTAGGED):
        raise DeclarationError(name, f'has no tag, its stream category; write `class {name}(Aggregate, tag="...")`')
    check_category(category, name)
    base = _find_same_tag(aggregate)
    if base is not None and any(each.startswith("apply_") for each in dir(base)):
        raise _same_tag_error(aggregate, base)
    return category


def _check_state(aggregate: type[Any]) -> None:
    name = aggregate.__qualname__
    ours = _find_framework_classes(aggregate)
    for field in _resolve(name, lambda: msgspec.structs.fields(aggregate)):
        culprit = f"{name}.{field.name}"
        if field.name == "id":
            continue
        if any(field.name in vars(base) for base in ours):
            raise DeclarationError(
                culprit, "is a name of the framework, not a field; write a setting without annotation"
            )
        if field.required:
            raise DeclarationError(culprit, "has no default; add one, because a new aggregate starts from the defaults")
    check_fields(_resolve(name, lambda: type_info(aggregate)), with_custom=False)
    version, remembered = aggregate.snapshot_version, aggregate.remembered_commands
    if type(version) is not int or version < 0:
        raise DeclarationError(f"{name}.snapshot_version", f"is {version!r}; it must be an int of at least 0")
    is_time = isinstance(remembered, timedelta) and remembered > timedelta()
    if not is_time and (type(remembered) is not int or remembered < 0):
        raise DeclarationError(
            f"{name}.remembered_commands", f"is {remembered!r}; it must be an int of at least 0, or a timedelta above 0"
        )
    for base in aggregate.__mro__[:-1]:
        if base not in ours and (taken := sorted(_FRAMEWORK_NAMES & vars(base).keys())):
            raise DeclarationError(
                f"{name}.{taken[0]}", "is a name of the framework; derive state in handlers or properties"
            )
    if aggregate.__dictoffset__:
        raise DeclarationError(name, "has a base without __slots__ = (), whose attributes no snapshot stores; add it")


_FRAMEWORK_NAMES = {"__post_init__", "_journal", "record", "stream", "version", "uncommitted"}


def _find_framework_classes(aggregate: type[Any]) -> list[type[Any]]:
    return [base for base in aggregate.__mro__ if base.__module__ == f"{__package__}.aggregate"]


def _read_snapshot_type(aggregate: type[Any]) -> tuple[Any, StateType]:
    name = aggregate.__qualname__
    makers = [inspect.getattr_static(aggregate, verb) for verb in ("to_snapshot", "from_snapshot")]
    ours = [_unwrap(maker).__module__ == f"{__package__}.aggregate" for maker in makers]
    if any(ours) and not all(ours):
        raise DeclarationError(name, "overrides only one of to_snapshot and from_snapshot; override both")
    culprit = name if all(ours) else f"{name}.to_snapshot"
    returned = aggregate if all(ours) else read_hints(_unwrap(makers[0]), aggregate).get("return", Any)
    if returned is Any:
        raise DeclarationError(culprit, "annotate its return type; snapshots are decoded as that type")
    state = StateType(_resolve(culprit, lambda: type_info(returned)), culprit)
    if returned is aggregate:
        state.check_initial_values(aggregate)
    return returned, state


def _unwrap(method: Any) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(method, "__func__", method)
    return function


def get_name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))
