"""The shape of a state: a fingerprint of its field names, types and defaults.

msgspec decodes a renamed field silently to its default, so that a snapshot decodes proves nothing; it is used only
if it was written under the same shape.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import inspect


def shape_of(state_type: Any, salt: int = 0) -> str:
    """16 hexadecimal digits that change when a field's name, type, default or order in the tree of types changes.

    What a default factory makes is not seen.
    """
    described = f"{salt}:{_describe(inspect.type_info(state_type), ())}"
    return fingerprint(described.encode()).hex()


def fingerprint(described: bytes) -> bytes:
    """Return 8 bytes that differ for other descriptions: a BLAKE2b hash, the same in every process."""
    from hashlib import blake2b  # here, as it loads OpenSSL: 8 % of what importing this library costs

    return blake2b(described, digest_size=8).digest()


def _describe(kind: Any, above: tuple[Any, ...]) -> str:
    if isinstance(kind, (inspect.StructType, inspect.DataclassType, inspect.TypedDictType, inspect.NamedTupleType)):
        if kind.cls in above:
            return f"^{above.index(kind.cls)}"
        nested = (*above, kind.cls)
        fields = ",".join(
            f"{field.encode_name}:{_describe(field.type, nested)}={_default(field.default)}" for field in kind.fields
        )
        return f"{type(kind).__name__}[{getattr(kind, 'tag', None)}]{{{fields}}}"
    if isinstance(kind, inspect.EnumType):
        return f"Enum{sorted(repr(member.value) for member in kind.cls)}"
    if isinstance(kind, inspect.CustomType):
        return f"Custom[{kind.cls.__qualname__}]"
    if isinstance(kind, inspect.Type):
        parts = (getattr(kind, name) for name in kind.__struct_fields__)
        return f"{type(kind).__name__}({','.join(_describe(part, above) for part in parts)})"
    if isinstance(kind, (tuple, list)):
        return f"[{','.join(_describe(part, above) for part in kind)}]"
    return repr(kind)


def _default(value: Any) -> str:
    """Also of the state that a replay starts from, so a changed one makes older snapshots wrong."""
    try:
        return "" if value is msgspec.NODEFAULT else msgspec.json.encode(value, order="sorted").decode()
    except (TypeError, ValueError, msgspec.MsgspecError):
        return type(value).__qualname__
