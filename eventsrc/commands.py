"""Command ids: how a redelivered command is told from a new one."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from .misfit import reason_of

if TYPE_CHECKING:
    from .store import Commit


class AppliedCommand(NamedTuple):
    """A command id that a commit carried: the commit's version, and a digest of what the command was."""

    version: int
    digest: bytes

    @classmethod
    def of(cls, commit: Commit) -> AppliedCommand:
        return cls(commit.version, commit.command_digest or b"")


def command_name(command: Callable[..., Any]) -> str:
    return getattr(command, "__name__", type(command).__name__)


def digest_of(content: Any) -> bytes:
    """8 bytes that tell a redelivered command from another one under its id; the same in every process.

    A value that msgspec cannot encode counts by its type only. Raises ValueError for what cannot be encoded at all.
    """
    try:
        encoded = msgspec.msgpack.encode(content, enc_hook=_type_name, order="deterministic")
    except (OverflowError, UnicodeError, RecursionError) as error:
        reason = reason_of(error)
    else:
        return blake2b(encoded, digest_size=8).digest()
    raise ValueError(f"the arguments of a command with an id cannot be encoded: {reason}")


def _type_name(value: Any) -> str:
    return type(value).__qualname__
