"""The verbs of the command line, their arguments, and the codes that it ends with."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import tomllib
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import EventsrcError, StoreError
from . import processors, streams, traces
from .app import App, UsageError, open_app
from .output import Output

USAGE, FAILED, UNREACHABLE, INTERRUPTED = 2, 1, 3, 130
_EXIT_CODES = """
exit codes: 0 done; 1 not found, different, parked or failed; 2 wrong arguments; 3 a store cannot be used;
130 interrupted
"""

Verb = Callable[[App, Output, argparse.Namespace], Awaitable[int]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, by default that of this process, and return its exit code."""
    given = make_parser().parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        return asyncio.run(_run(given))
    except UsageError as error:
        return _fail(error, USAGE)
    except StoreError as error:
        return _fail(error, UNREACHABLE)
    except EventsrcError as error:
        return _fail(error, FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter flushes, and fails again
        return 0


async def _run(given: argparse.Namespace) -> int:
    reference, urls = given.app, given.store
    if not reference and not urls:
        configured = _read_configuration()
        reference, urls = configured.get("app"), configured.get("store", os.environ.get("EVENTSRC_STORE", ""))
        urls = urls.split() if isinstance(urls, str) else urls
    verb: Verb = given.verb
    async with open_app(reference, urls) as app:
        return await verb(app, Output(as_json=given.json), given)


def _read_configuration() -> dict[str, Any]:
    """Return the table `[tool.eventsrc]` of the pyproject.toml in this folder. Raises UsageError."""
    try:
        with Path("pyproject.toml").open("rb") as file:
            found: dict[str, Any] = tomllib.load(file).get("tool", {}).get("eventsrc", {})
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"pyproject.toml cannot be read: {error}") from None
    return found


def _fail(error: Exception, code: int) -> int:
    print(f"eventsrc: {error}", file=sys.stderr)
    return code


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    shared = argparse.ArgumentParser(add_help=False)
    about_store = "a store, or NAME=URL; may be repeated"
    shared.add_argument("--store", action="append", default=[], metavar="URL", help=about_store)
    shared.add_argument("--app", metavar="MODULE:NAME", help="the program's App: its stores, classes and processors")
    shared.add_argument("--json", action="store_true", help="print JSON, one value a line")
    parser = argparse.ArgumentParser(prog="eventsrc", description="Look into event stores.", epilog=_EXIT_CODES)
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def add(name: str, verb: Verb, about: str, example: str, group: Any = verbs) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = group.add_parser(
            name, parents=[shared], help=about, description=about, epilog=f"example: eventsrc {example}"
        )
        added.set_defaults(verb=verb)
        return added

    found = add(
        "streams",
        lambda app, output, given: streams.list_streams(app, output, category=given.category, prefix=given.prefix),
        "list streams with their versions",
        "streams --store sqlite:///shop.db --category order",
    )
    found.add_argument("--category", default="", help="only streams of this category")
    found.add_argument("--prefix", default="", help="only streams that begin so")

    found = add(
        "show",
        lambda app, output, given: streams.show_stream(app, output, given.stream, at=given.at),
        "print the events of a stream, up to a version or a time",
        "show --store sqlite:///shop.db order-7@17",
    )
    found.add_argument("stream", metavar="STREAM[@VERSION]")
    found.add_argument("--at", type=_parse_time, help="a time, as 2026-01-31T12:00:00Z")

    found = add(
        "state",
        lambda app, output, given: streams.show_state(app, output, given.stream),
        "print the state of a stream, at its end or at a version",
        "state --app shop.main:app order-7@17",
    )
    found.add_argument("stream", metavar="STREAM[@VERSION]")

    found = add(
        "diff",
        lambda app, output, given: streams.compare_states(app, output, given.stream, given.before, given.after),
        "print what differs between two states of a stream",
        "diff --app shop.main:app order-7 @12 @17",
    )
    found.add_argument("stream", metavar="STREAM")
    found.add_argument("before", metavar="@VERSION")
    found.add_argument("after", metavar="@VERSION")

    found = add(
        "tail",
        lambda app, output, given: streams.follow(app, output, category=given.category),
        "print events as they are stored, until it is interrupted",
        "tail --store sqlite:///shop.db --category order",
    )
    found.add_argument("--category", default="", help="only streams of this category")

    found = add(
        "trace",
        lambda app, output, given: traces.show_trace(app, output, given.id, _read_pictures(given), every=given.every),
        "print a trace: what happened, why, and what is open",
        "trace --store shop=sqlite:///shop.db --store stock=sqlite:///stock.db request-9",
    )
    found.add_argument("id", metavar="ID", help="a correlation id, an event (order-7@3.0) or a commit (order-7@3)")
    found.add_argument("--every", action="store_true", help="draw each step, also those that look alike")
    _add_pictures(found)

    found = add(
        "why",
        lambda app, output, given: traces.show_causes(app, output, given.event, _read_pictures(given)),
        "print what led to an event",
        "why --store sqlite:///shop.db order-7@3.0",
    )
    found.add_argument("event", metavar="EVENT")
    _add_pictures(found)

    found = add(
        "effects",
        lambda app, output, given: traces.show_effects(app, output, given.event, _read_pictures(given)),
        "print what an event has led to",
        "effects --store sqlite:///shop.db order-7@3.0",
    )
    found.add_argument("event", metavar="EVENT")
    _add_pictures(found)

    add(
        "status",
        lambda app, output, _: processors.show_status(app, output),
        "print the status of the app's processors",
        "status --app shop.main:app",
    )

    parked = verbs.add_parser("parked", help="look at parked streams, and release them").add_subparsers(
        required=True, metavar="VERB"
    )
    add(
        "list",
        lambda app, output, _: processors.list_parked(app, output),
        "list the parked streams of all processors",
        "parked list --app shop.main:app",
        parked,
    )
    for name, about in (
        ("show", "print why a stream is parked, and the commit that failed"),
        ("retry", "handle a parked stream again"),
        ("skip", "skip the commit at which a stream is parked"),
    ):
        found = add(name, _VERBS_OF_PARKED[name], about, f"parked {name} --app shop.main:app mail@1 order-7", parked)
        found.add_argument("processor", metavar="PROCESSOR", help="its name, as mail@1, or its tag")
        found.add_argument("stream", metavar="STREAM")
        if name != "show":
            found.add_argument("--dry-run", action="store_true", help="print what would be handled, and change nothing")
        if name == "skip":
            found.add_argument("--reason", required=True, help="why it is skipped; it is stored")
    return parser


_VERBS_OF_PARKED: dict[str, Verb] = {
    "show": lambda app, output, given: processors.show_parked(app, output, given.processor, given.stream),
    "retry": lambda app, output, given: processors.retry_parked(
        app, output, given.processor, given.stream, dry_run=given.dry_run
    ),
    "skip": lambda app, output, given: processors.skip_parked(
        app, output, given.processor, given.stream, reason=given.reason, dry_run=given.dry_run
    ),
}


def _add_pictures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--svg", metavar="FILE", help="write it to a file, too, as lanes: an SVG")
    parser.add_argument("--html", metavar="FILE", help="write it to a file, too, as one page with lanes and steps")
    parser.add_argument("--mermaid", action="store_true", help="print a Mermaid flowchart instead of a tree")


def _read_pictures(given: argparse.Namespace) -> traces.Pictures:
    return traces.Pictures(given.svg, given.html, given.mermaid)


def _parse_time(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time; write it as 2026-01-31T12:00:00Z") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
