"""The shape of a state: a fingerprint of its field names, types and defaults.

A snapshot is used only if it was written with the same shape. That it decodes is not enough, because msgspec silently
decodes a renamed field as its default. The salt holds what the type of the state does not show: which class folded it.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import inspect

from .custom_types import describe_custom, encode_custom


def shape_of(state_type: Any, salt: object = 0) -> str:
    """Return 16 hexadecimal digits that change with the name, type, default or order of any field, also nested.

    The results of default factories are not compared.
    """
    described = f"{salt}:{_describe(inspect.type_info(state_type), ())}"
    return compute_fingerprint(described.encode()).hex()


def compute_fingerprint(described: bytes) -> bytes:
    """Return 8 bytes that differ for other descriptions and are the same in every process: a BLAKE2b hash."""
    from hashlib import blake2b  # here, because it loads OpenSSL: 8 % of the time to import this library

    return blake2b(described, digest_size=8).digest()


def _describe(kind: Any, above: tuple[Any, ...]) -> str:
    if isinstance(kind, (inspect.StructType, inspect.DataclassType, inspect.TypedDictType, inspect.NamedTupleType)):
        if kind.cls in above:
            return f"^{above.index(kind.cls)}"
        nested = (*above, kind.cls)
        fields = ",".join(
            f"{field.encode_name}:{_describe(field.type, nested)}={_describe_default(field.default)}"
            for field in kind.fields
        )
        return f"{type(kind).__name__}[{getattr(kind, 'tag', None)}]{{{fields}}}"
    if isinstance(kind, inspect.EnumType):
        return f"Enum{sorted(repr(member.value) for member in kind.cls)}"
    if isinstance(kind, inspect.CustomType):
        return f"Custom[{describe_custom(kind.cls)}]"
    if isinstance(kind, inspect.Type):
        parts = (getattr(kind, name) for name in kind.__struct_fields__)
        return f"{type(kind).__name__}({','.join(_describe(part, above) for part in parts)})"
    if isinstance(kind, (tuple, list)):
        return f"[{','.join(_describe(part, above) for part in kind)}]"
    return repr(kind)


def _describe_default(value: Any) -> str:
    """A replay starts from the defaults, so a changed default makes older snapshots wrong."""
    try:
        if value is msgspec.NODEFAULT:
            return ""
        return msgspec.json.encode(value, enc_hook=encode_custom, order="sorted").decode()
    except (TypeError, ValueError, msgspec.MsgspecError):
        return type(value).__qualname__
