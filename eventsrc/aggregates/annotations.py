"""Evaluate annotations: names of a class body, type variables of generic classes, aliases and unions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from .event import Event


def evaluate_hints(function: Callable[..., Any], owner: type[Any] | None) -> dict[str, Any]:
    """Return the annotations of a function, evaluated as they are meant in the class `owner`, which has or uses it.

    - If it was defined in the body of that class, or of a base, it may use names of that body. Under
      `from __future__ import annotations` Python itself does not look there.
    - Type variables stand for what `owner` gives its generic bases.

    Raises NameError, AttributeError, SyntaxError or TypeError if this is not possible.
    """
    bases = owner.__mro__ if owner is not None else ()
    body = next((base for base in bases if f"{base.__qualname__}.{function.__name__}" == function.__qualname__), None)
    names = None if body is None else _find_types(body)
    arguments = {} if owner is None else _read_type_arguments(owner)
    hints = get_type_hints(function, localns=names, include_extras=True)
    return {name: _substitute(hint, arguments) for name, hint in hints.items()}


def expand_union(annotation: Any) -> list[Any]:
    """Return the members of a union, also of unions within it and of aliases; of anything else, a list of it alone."""
    origin = get_origin(annotation)
    if _is_alias(annotation):  # `type Movement = Deposited | Withdrawn`
        return expand_union(annotation.__value__)
    if _is_alias(origin):  # `type Or[T] = Deposited | T`, as Or[Withdrawn]
        arguments = dict(zip(origin.__type_params__, get_args(annotation), strict=False))
        return expand_union(_substitute(origin.__value__, arguments))
    if isinstance(annotation, TypeVar) and annotation.__constraints__:
        return [each for member in annotation.__constraints__ for each in expand_union(member)]
    if isinstance(annotation, TypeVar) and annotation.__bound__ not in (None, Event):
        return expand_union(annotation.__bound__)
    if origin is Annotated:
        return expand_union(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [each for member in get_args(annotation) for each in expand_union(member)]
    return [annotation]


def _find_types(body: type[Any]) -> dict[str, Any]:
    """Return the names in a class body that stand for types."""
    parameters = {parameter.__name__: parameter for parameter in getattr(body, "__type_params__", ())}
    return parameters | {name: value for name, value in vars(body).items() if _is_type(value)}


def _is_type(value: Any) -> bool:
    return isinstance(value, type) or get_origin(value) is not None or _is_alias(value)


def _is_alias(value: Any) -> bool:
    return type(value).__name__ == "TypeAliasType"  # Python 3.11 does not have it


def _read_type_arguments(owner: type[Any]) -> dict[Any, Any]:
    """Return what the type variables of the generic bases of a class stand for."""
    arguments: dict[Any, Any] = {}
    for each in owner.__mro__:  # a class comes before its bases
        for base in vars(each).get("__orig_bases__", ()):
            parameters = getattr(get_origin(base), "__parameters__", ())
            given = [_substitute(argument, arguments) for argument in get_args(base)]
            arguments |= dict(zip(parameters, given, strict=False))
    return arguments


def _substitute(annotation: Any, arguments: Mapping[Any, Any]) -> Any:
    """Return an annotation with type variables replaced."""
    if isinstance(annotation, TypeVar):
        return arguments.get(annotation, annotation)
    parameters = () if isinstance(annotation, type) else getattr(annotation, "__parameters__", ())
    if not parameters:
        return annotation
    generic: Any = annotation
    return generic[tuple(arguments.get(parameter, parameter) for parameter in parameters)]
