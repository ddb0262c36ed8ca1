"""The arguments of commands as bytes: each is read back as its annotation says, and checked when it is asked for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec

from ..aggregates.commands import command_name
from ..aggregates.custom_types import decode_custom, encode_custom
from ..aggregates.declaration import read_hints
from ..aggregates.differences import find_difference
from ..errors import DeclarationError

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional arguments, and those by keyword."""


def encode_arguments(
    method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[list[bytes], dict[str, bytes]]:
    """Return the arguments of a command as bytes. Raises TypeError or ValueError if they would not be read back."""
    try:
        encoded = [_encode(each) for each in args], {name: _encode(each) for name, each in kwargs.items()}
        found = decode_arguments(method, *encoded)
    except (msgspec.MsgspecError, TypeError, OverflowError, UnicodeError, RecursionError) as error:
        reason = type(error).__name__
    else:
        given = _read(method)[0].bind(None, *args, **kwargs)
        if (place := find_difference((given.args[1:], given.kwargs), found)) is None:
            return encoded
        reason = f"it is read back as another value, at {place}"
    raise TypeError(
        f"an argument of {command_name(method)} cannot be stored: {reason}; annotate its parameter with its exact type"
    )


def decode_arguments(method: Callable[..., Any], args: list[bytes], kwargs: dict[str, bytes]) -> Arguments:
    """Return the arguments that were encoded. Raises TypeError or what msgspec raises if they do not fit any more."""
    signature, hints = _read(method)
    bound = signature.bind(None, *args, **kwargs)
    for name, given in [*bound.arguments.items()][1:]:
        kind, value = hints.get(name, Any), given
        if signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
            value = tuple(_decode(each, kind) for each in given)
        elif signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            value = {key: _decode(each, kind) for key, each in given.items()}
        else:
            value = _decode(given, kind)
        bound.arguments[name] = value
    return bound.args[1:], bound.kwargs


def _encode(value: Any) -> bytes:
    return msgspec.msgpack.encode(value, enc_hook=encode_custom)


def _decode(body: bytes, kind: Any) -> Any:
    return msgspec.msgpack.decode(body, type=kind, dec_hook=decode_custom)


@cache
def _read(method: Callable[..., Any]) -> tuple[inspect.Signature, dict[str, Any]]:
    try:
        return inspect.signature(method), read_hints(method)
    except DeclarationError:  # an annotation cannot be resolved
        return inspect.signature(method), {}
