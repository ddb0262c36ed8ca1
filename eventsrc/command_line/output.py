"""What verbs print: lines for people, or JSON for programs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ..inspection import UsageError
from ..inspection.events import to_json
from .screen import Screen


class Output:
    """Prints to standard output. With `as_json` it prints one JSON value a line, otherwise text.

    `screen` is standard error. With `to_errors` it prints there, because standard output has something else.
    """

    def __init__(self, screen: Screen, *, as_json: bool = False, to_errors: bool = False) -> None:
        self.screen, self.as_json, self._to_errors = screen, as_json, to_errors

    def show(self, text: str, value: Any) -> None:
        """Print a text, or the value as JSON."""
        print(to_json(value) if self.as_json else text, file=sys.stderr if self._to_errors else sys.stdout, flush=True)


def write_file(file: str, text: str) -> None:
    """Write a text and a line break to a file, which may exist. Raises UsageError if it cannot be written."""
    try:
        Path(file).write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}") from None
