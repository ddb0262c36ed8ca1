"""Standard error: lines and, on a terminal, a status below them that is drawn again and again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TextIO

_EVERY = 10.0  # seconds between two lines of status where there is no terminal
_BAR = 30  # characters


class Screen:
    """Standard error as a stream. What is written, such as log lines, appears above the status.

    Without a terminal, the status is a line every ten seconds by `clock`, and the last one is not repeated.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._is_terminal = stream.isatty()
        self._status = ""  # on the terminal now
        self._next_line = clock() + _EVERY

    def write(self, text: str) -> None:
        """Write whole lines above the status."""
        status = self._status
        self._draw("")
        self._stream.write(text)
        self._draw(status)

    def flush(self) -> None:
        self._stream.flush()

    def show(self, status: str) -> None:
        """Replace the status. An empty one leaves the last line free."""
        if self._is_terminal:
            self._draw(status)
        elif status and (now := self._clock()) >= self._next_line:
            self._next_line = now + _EVERY
            self.write(f"{status}\n")
            self.flush()

    def _draw(self, status: str) -> None:
        if self._is_terminal and (status or self._status):
            status = status[: self._width() - 1]
            blanks = " " * (len(self._status) - len(status))
            self._stream.write(f"\r{status}{blanks}" if status else f"\r{blanks}\r")
            self._stream.flush()
            self._status = status

    def _width(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except (OSError, ValueError):
            return 80


def draw_bar(name: str, done: int, total: int) -> str:
    """Return how much of a total is done, as `mail@2  [####....]  50%  1,000 of 2,000 commits`."""
    part = done / total if total else 1.0
    bar = "#" * int(_BAR * part)
    return f"{name}  [{bar:.<{_BAR}}]  {int(100 * part)}%  {done:,} of {total:,} commits"
