"""Run a command line: find the stores and the program, call the verb, and end with an exit code."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import EventsrcError, StoreError
from ..inspection import App, UsageError, make_stores, open_app
from . import completion, dumps, maps, processors, rebuilding, streams, studio, tables, traces
from .output import Output
from .screen import Screen
from .verbs import Needs, Verb, VerbParser, Verbs

USAGE, FAILED, UNREACHABLE, INTERRUPTED = 2, 1, 3, 130
_EXIT_CODES = """
exit codes: 0 done; 1 not found, different, parked or failed; 2 wrong arguments; 3 a store cannot be used;
130 interrupted
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, by default that of this process, and return its exit code."""
    given = make_parser().parse_args(arguments)
    screen = Screen(sys.stderr)
    handler = logging.StreamHandler(screen)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        return asyncio.run(_run(given, screen))
    except UsageError as error:
        return _fail(error, USAGE)
    except ImportError as error:  # of an extra, which the message names
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


async def _run(given: argparse.Namespace, screen: Screen) -> int:
    verb: Verb = given.verb
    if given.needs is Needs.NOTHING:
        return await verb(App({}), Output(screen), given)
    reference, urls = given.app, given.store
    output = Output(screen, as_json=given.json)
    if not reference and not urls:
        configured = _read_configuration()
        reference, urls = configured.get("app"), configured.get("store", os.environ.get("EVENTSRC_STORE", ""))
        urls = urls.split() if isinstance(urls, str) else urls
    if given.needs in (Needs.STORES, Needs.NEW_STORES) and urls:
        create = given.needs is Needs.NEW_STORES and not given.dry_run
        return await verb(App(make_stores(urls, create=create)), output, given)
    async with open_app(reference, urls) as app:
        return await verb(app, output, given)


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


def make_parser() -> VerbParser:
    """Return the parser of all verbs."""
    about = "Look into event stores, and administer tables and processors."
    parser = VerbParser(prog="eventsrc", description=about, epilog=_EXIT_CODES)
    parser.add_argument("--version", action="version", version=f"eventsrc {__version__}")
    verbs = Verbs(parser)
    for module in (streams, traces, maps, processors, rebuilding, dumps, tables, studio, completion):
        module.add_verbs(verbs)
    return parser
