"""The confirmation of a verb that changes something: the name of what it changes, typed on a terminal."""

from __future__ import annotations

import asyncio
import sys

from ..inspection import UsageError
from ..tracing.wording import plain
from .output import Output


async def is_confirmed(output: Output, name: str, *, yes: bool) -> bool:
    """Ask for a name to be typed on the terminal, unless `yes`; whether the answer is that name.

    Raises UsageError if there is nobody to ask: no terminal, or `--json`.
    """
    if yes:
        return True
    if output.as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError("this changes what is stored, and there is no terminal to confirm it on; give --yes")
    print(f"type {plain(name)} to continue: ", end="", file=sys.stderr, flush=True)
    if (await _read_line()).strip() == name:
        return True
    print("not confirmed; nothing was changed", file=sys.stderr)
    return False


async def _read_line() -> str:
    """Return a line of standard input. Unlike a blocking read, the wait ends when the program is interrupted."""
    loop, is_there = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin, is_there.set)
    try:
        await is_there.wait()
    finally:
        loop.remove_reader(sys.stdin)
    return sys.stdin.readline()
