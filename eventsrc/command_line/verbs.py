"""What each verb of the command line has in common: its options, its help, and what it is called with."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from ..inspection import App
from .confirmation import is_confirmed
from .output import Output

Verb = Callable[[App, Output, argparse.Namespace], Awaitable[int]]

_UNCHANGED = 1


class Needs(Enum):
    """What a verb is called with."""

    OPEN_APP = "an app whose stores are open"
    STORES = "an app whose stores are open only if they come from a program: nothing is connected for a URL"
    NEW_STORES = "as STORES; and a file of SQLite may be missing, except for a dry run"
    NOTHING = "an app without stores"


class VerbParser(argparse.ArgumentParser):
    """The parser of a verb, of a group of verbs, or of the whole command line."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.color = False  # of help, from Python 3.14 on

    @property
    def options(self) -> dict[str, argparse.Action]:
        """The options by name, such as `--store`."""
        return {name: action for action in self._actions for name in action.option_strings}

    @property
    def values(self) -> dict[str, Sequence[str]]:
        """The options that take a value, with its choices, if there are some."""
        return {name: tuple(each.choices or ()) for name, each in self.options.items() if each.nargs != 0}

    @property
    def words(self) -> Sequence[str]:
        """What may follow: verbs, choices of an argument, and options."""
        choices = [word for action in self._actions if not action.option_strings for word in action.choices or ()]
        return [*choices, *self.options]

    @property
    def children(self) -> Mapping[str, VerbParser]:
        """The parsers of verbs and groups, by name."""
        found: dict[str, VerbParser] = {}
        for action in self._actions:
            if isinstance(action.choices, dict):  # those of its verbs
                found |= action.choices
        return found


class Verbs:
    """The verbs of a parser, or of a group such as `parked`."""

    def __init__(self, parser: VerbParser) -> None:
        self.parser = parser
        self._parsers: Any = parser.add_subparsers(required=True, metavar="VERB")
        self._shared = argparse.ArgumentParser(add_help=False)
        about_store = "a store, or NAME=URL; may be repeated"
        self._shared.add_argument("--store", action="append", default=[], metavar="URL", help=about_store)
        self._shared.add_argument("--app", metavar="MODULE:NAME", help="the program's App: stores, classes, processors")
        self._shared.add_argument("--json", action="store_true", help="print JSON, one value a line")

    def add(
        self, name: str, verb: Verb, about: str, example: str, *, needs: Needs = Needs.OPEN_APP
    ) -> argparse.ArgumentParser:
        """Add a verb with the options that all have, and return its parser for further ones."""
        shared = [] if needs is Needs.NOTHING else [self._shared]
        added: VerbParser = self._parsers.add_parser(
            name, parents=shared, help=about, description=about, epilog=f"example: eventsrc {example}"
        )
        added.set_defaults(verb=verb, needs=needs)
        return added

    def add_change(
        self,
        name: str,
        verb: Verb,
        about: str,
        example: str,
        *,
        target: Callable[[App, argparse.Namespace], str],
        needs: Needs = Needs.OPEN_APP,
    ) -> argparse.ArgumentParser:
        """Add a verb that changes something, with `--dry-run` and `--yes`.

        It is called with `--dry-run`, or after a confirmation. `target` returns the name that is typed to confirm it.
        """

        async def confirm_and_call(app: App, output: Output, given: argparse.Namespace) -> int:
            name_to_type = target(app, given)
            if not given.dry_run and not await is_confirmed(output, name_to_type, yes=given.yes):
                return _UNCHANGED
            return await verb(app, output, given)

        added = self.add(name, confirm_and_call, about, example, needs=needs)
        added.add_argument("--dry-run", action="store_true", help="print what would be done, and change nothing")
        added.add_argument("--yes", action="store_true", help="do not ask for a confirmation")
        return added

    def group(self, name: str, about: str) -> Verbs:
        """Add a group of verbs."""
        return Verbs(self._parsers.add_parser(name, help=about, description=about))


def parse_time(text: str) -> datetime:
    """Return a time, in UTC if it names no zone. Raises argparse.ArgumentTypeError."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; write it as 2026-01-31T12:00:00Z") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def parse_rate(text: str) -> float:
    """Return a number above 0. Raises argparse.ArgumentTypeError."""
    try:
        if 0 < (found := float(text)) < float("inf"):
            return found
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0; write it as 500")
