"""Models of pydantic as field types. This module never imports pydantic: models exist only if a program has done so."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from enum import Enum
from types import ModuleType
from typing import Any, get_args

import msgspec

from ..errors import DeclarationError

_OLDEST = (2, 11)  # with `by_name` and `by_alias` for one call
_MODEL, _UNSET = "$model", "$unset"


def is_model(kind: Any) -> bool:
    """Return whether this is a class of pydantic's models."""
    base = getattr(_find_pydantic(), "BaseModel", None)
    return base is not None and isinstance(kind, type) and issubclass(kind, base)


def is_field(default: object) -> bool:
    """Return whether this is what a dataclass of pydantic has as the default of a field, which only pydantic reads."""
    info = getattr(sys.modules.get("pydantic.fields"), "FieldInfo", None)
    return info is not None and isinstance(default, info)


def check_model(kind: Any) -> None:
    """Raise DeclarationError if the fields of a model show that its objects would not be read back."""
    name, version = kind.__qualname__, str(getattr(_find_pydantic(), "VERSION", ""))
    if tuple(map(int, version.split(".")[:2])) < _OLDEST:
        raise DeclarationError(name, f"is a model of pydantic {version}; install pydantic 2.11 or newer")
    for model in _find_models(kind):
        try:
            model.model_rebuild()
        except Exception as error:  # noqa: BLE001  # pydantic runs code of the annotations
            reason = f"is not fully defined: {type(error).__name__}; define what its annotations name"
        else:
            for field in model.__pydantic_fields__:
                _check_field(model, field)
            continue
        raise DeclarationError(model.__qualname__, reason)


def dump(model: Any) -> Any:
    """Return a model as what JSON has, by the names of its fields.

    If fields of it, or of a model within it, have not been set, these are added, so that `model_fields_set` is kept.
    """
    content = model.model_dump(mode="json", round_trip=True, by_alias=False, warnings="error")
    unset = [[name for name in names_of(each) if name not in each.model_fields_set] for each in _find_objects(model)]
    return {_UNSET: unset, _MODEL: content} if any(unset) else content


def validate(kind: Any, data: Any) -> Any:
    """Return the model that was dumped as this. Raises what its validators raise."""
    unset: list[list[str]] = []
    if isinstance(data, dict) and data.keys() == {_UNSET, _MODEL}:
        unset, data = data[_UNSET], data[_MODEL]
    model = kind.model_validate_json(msgspec.json.encode(data), by_alias=False, by_name=True)
    objects = list(_find_objects(model)) if unset else []
    if len(objects) == len(unset):  # otherwise the classes have changed
        for each, names in zip(objects, unset, strict=True):
            each.model_fields_set.difference_update(names)
    return model


def names_of(model: Any) -> Collection[str]:
    """Return the names of the fields of a model object."""
    names: Collection[str] = type(model).__pydantic_fields__
    return names


def read_others(model: Any) -> Mapping[str, object]:
    """Return all of a model object except its fields: extra values, private attributes, and which fields are set."""
    private = model.__pydantic_private__ or {}
    return {"extra": model.__pydantic_extra__ or {}, "private": private, "model_fields_set": model.model_fields_set}


def describe_model(kind: Any) -> str:
    """Return a text that changes with the names, types, defaults and order of the fields, also of models within."""
    return ";".join(f"{model.__qualname__}({_describe_fields(model)})" for model in _find_models(kind))


def _describe_fields(model: Any) -> str:
    fields = model.__pydantic_fields__.items()
    return ",".join(f"{name}:{_describe(field.annotation)}={_describe_default(field)}" for name, field in fields)


def _describe(annotation: Any) -> str:
    enums = [kind for kind in _find_classes(annotation) if issubclass(kind, Enum)]
    members = [sorted(repr(member.value) for member in kind) for kind in enums]
    return f"{annotation!r}{members or ''}"


def _describe_default(field: Any) -> str:
    """The default has no place if it has another text in each process, as an object without a `__repr__` has."""
    represent: object = type(field.default).__repr__
    return "" if field.is_required() or represent is object.__repr__ else repr(field.default)


def _find_pydantic() -> ModuleType | None:
    return sys.modules.get("pydantic")


def _check_field(model: Any, name: str) -> None:
    field, culprit = model.__pydantic_fields__[name], f"{model.__qualname__}.{name}"
    if field.exclude:
        raise DeclarationError(culprit, "has exclude=True, so pydantic does not store it; remove one of the two")
    pydantic: Any = _find_pydantic()
    secret = (pydantic.Secret, pydantic.SecretStr, pydantic.SecretBytes)
    serializers = model.__pydantic_decorators__.field_serializers.values()
    is_serialized = bool(field.metadata) or any({name, "*"}.intersection(each.info.fields) for each in serializers)
    if any(issubclass(kind, secret) for kind in _find_classes(field.annotation)) and not is_serialized:
        reason = "pydantic stores as asterisks; encrypt it into a str or bytes, or give the field a serializer"
        raise DeclarationError(culprit, f"holds a secret, which {reason}")


def _find_models(kind: Any) -> Iterable[Any]:
    """Return a model class and those in the annotations of its fields, and so on, each once."""
    found: dict[Any, None] = {}
    todo = [kind]
    while todo:
        each = todo.pop()
        if each not in found:
            found[each] = None
            fields = each.__pydantic_fields__.values()
            todo += [part for field in fields for part in _find_classes(field.annotation) if is_model(part)]
    return found


def _find_classes(annotation: Any) -> Iterator[type[Any]]:
    if isinstance(annotation, type) and not get_args(annotation):
        yield annotation
    for part in (*get_args(annotation), *filter(None, [getattr(annotation, "__value__", None)])):
        yield from _find_classes(part)


def _find_objects(value: Any) -> Iterator[Any]:
    """Yield a model object, and those in its fields and collections, in the order of the fields."""
    if is_model(type(value)):
        yield value
        parts = [getattr(value, name) for name in names_of(value)]
        parts += [*(value.__pydantic_extra__ or {}).values()]
    elif isinstance(value, dict):
        parts = [*value.values()]
    else:
        parts = [*value] if isinstance(value, (list, tuple)) else []
    for part in parts:
        yield from _find_objects(part)
