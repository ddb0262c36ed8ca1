"""The metaclass of aggregate classes, which may have `ABC` among their bases, and abstract methods."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from ..errors import DeclarationError


class AggregateMeta(type(msgspec.Struct), type(Protocol)):  # type: ignore[misc]  # mypy: computed bases
    """Creates aggregate classes. Raises DeclarationError for one with a Protocol among its bases."""

    # Those of ABC would take ten times as long, for classes that are registered as subclasses, which no aggregate is.
    __instancecheck__ = type.__instancecheck__
    __subclasscheck__ = type.__subclasscheck__

    def __new__(cls, name: str, bases: tuple[type[Any], ...], body: dict[str, Any], **options: Any) -> Any:
        for base in bases:
            if isinstance(base, type(Protocol)) and getattr(base, "_is_protocol", False):
                reason = "which is a Protocol; remove this base: a class with the methods of a protocol has its type"
                raise DeclarationError(name, f"has the base {base.__qualname__}, {reason}")
        return super().__new__(cls, name, bases, body, **options)
