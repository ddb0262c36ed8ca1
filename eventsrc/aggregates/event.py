"""Events: frozen structs with a tag, which is their stored name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, dataclass_transform

import msgspec

from ..errors import DeclarationError

UNTAGGED = "!"
"""Starts the tag of a class that was declared without one. Its events cannot be recorded."""


def untagged(class_name: str) -> str:
    return UNTAGGED + class_name


if TYPE_CHECKING:
    # msgspec lets subclasses inherit `frozen`. Type checkers accept that only in this form.
    @dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
    class _Struct:
        __struct_config__: ClassVar[msgspec.structs.StructConfig]
        __struct_fields__: ClassVar[tuple[str, ...]]

        def __init_subclass__(cls, *, tag: str = ..., **options: Any) -> None: ...

else:

    class _Struct(msgspec.Struct, frozen=True, kw_only=True, tag_field="$", tag=untagged):
        pass


class Event(_Struct):
    """A fact that happened. Subclass it with a tag, and annotate its fields.

    ```python
    class Deposited(Event, tag="account.deposited"):
        amount: int
    ```

    - The tag is stored and never changes. The class may be renamed or moved.
    - A field that is added later needs a default.
    - Fields may have any type that msgspec reads back from MessagePack.
    """


Upcaster = Callable[[Any], Event | Sequence[Event] | None]
"""A function from an old event class to its successor, to a list of successors, or to None: the event is dropped."""


def tag_of(event_type: Any) -> str:
    """Return the stored name of an event class. Raises DeclarationError if it was declared without a tag."""
    if not (isinstance(event_type, type) and issubclass(event_type, Event)):
        culprit = getattr(event_type, "__qualname__", repr(event_type))
        raise DeclarationError(culprit, "is not a subclass of Event; give an event class")
    tag: object = event_type.__struct_config__.tag
    if not isinstance(tag, str) or not tag or tag.startswith(UNTAGGED):
        name = event_type.__qualname__
        raise DeclarationError(name, f'has no tag, its stored name; write `class {name}(Event, tag="...")`')
    return tag
