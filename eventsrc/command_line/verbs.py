"""What each verb of the command line has in common: its options, its help, and what it is called with."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from ..inspection import App
from .output import Output

Verb = Callable[[App, Output, argparse.Namespace], Awaitable[int]]


class Verbs:
    """The verbs of a parser, or of a group such as `parked`."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._added: Any = parser.add_subparsers(required=True, metavar="VERB")
        self._shared = argparse.ArgumentParser(add_help=False)
        about_store = "a store, or NAME=URL; may be repeated"
        self._shared.add_argument("--store", action="append", default=[], metavar="URL", help=about_store)
        self._shared.add_argument("--app", metavar="MODULE:NAME", help="the program's App: stores, classes, processors")
        self._shared.add_argument("--json", action="store_true", help="print JSON, one value a line")

    def add(self, name: str, verb: Verb, about: str, example: str, *, create: bool = False) -> argparse.ArgumentParser:
        """Add a verb with the options that all have, and return its parser for further ones.

        With `create`, an SQLite file that is missing is created, except for a dry run.
        """
        added: argparse.ArgumentParser = self._added.add_parser(
            name, parents=[self._shared], help=about, description=about, epilog=f"example: eventsrc {example}"
        )
        added.set_defaults(verb=verb, create=create, dry_run=False)
        return added

    def group(self, name: str, about: str) -> Verbs:
        """Add a group of verbs."""
        return Verbs(self._added.add_parser(name, help=about))


def parse_time(text: str) -> datetime:
    """Return a time, in UTC if it names no zone. Raises argparse.ArgumentTypeError."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; write it as 2026-01-31T12:00:00Z") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
