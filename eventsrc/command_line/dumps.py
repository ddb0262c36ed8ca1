"""Verbs about dumps: write all commits of a store to a file, and append them to another store."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import StoreClosed
from ..inspection import App, UsageError, find_feed
from ..inspection.dump import export_commits, import_commits
from ..store import Store
from ..tracing.wording import plain, show_count
from .output import Output
from .verbs import Needs, Verbs

_DONE, _PROBLEM = 0, 1
_PIPE = "-"


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module to the command line."""
    found = verbs.add(
        "export",
        lambda app, output, given: export(app, output, given.file),
        "write all commits of a store to a file, from which any store can import them",
        "export --store sqlite:///shop.db shop.ndjson",
    )
    found.add_argument("file", metavar="FILE", help="the file, which is replaced at the end; - for standard output")

    found = verbs.add_change(
        "import",
        lambda app, output, given: import_(app, output, given.file, dry_run=given.dry_run),
        "append the commits of an exported file to a store, except those that are there already",
        "import --store dynamodb://shop shop.ndjson",
        target=lambda app, _: app.find_store()[0],
        needs=Needs.NEW_STORES,
    )
    found.add_argument("file", metavar="FILE", help="the file; - for standard input")


async def export(app: App, output: Output, file: str) -> int:
    """Write all commits of the store to a file. Return 1 if some of them are damaged."""
    name, store = app.find_store()
    find_feed(name, store)
    if file == _PIPE:
        output = Output(output.screen, as_json=output.as_json, to_errors=True)
        found = await export_commits(store, sys.stdout.buffer)
    else:
        with _replacing(file) as opened:
            found = await export_commits(store, opened)
    for problem in found.problems:
        print(f"eventsrc: damaged: {plain(problem)}", file=sys.stderr)
    damaged = f", except {found.damaged:,} damaged" if found.damaged else ""
    output.show(f"exported {show_count(found.commits, 'commit')}{damaged}", found)
    return _PROBLEM if found.damaged else _DONE


@contextmanager
def _replacing(file: str) -> Iterator[BinaryIO]:
    """Yield a file that replaces another one at the end, if there was no error. Raises UsageError."""
    part = Path(f"{file}.part")
    try:
        with part.open("wb") as opened:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        part.replace(file)
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            part.unlink()


async def import_(app: App, output: Output, file: str, *, dry_run: bool) -> int:
    """Append the commits of a file to the store. Return 1 if some of them were not, although they are not there."""
    async with AsyncExitStack() as stack:
        opened = sys.stdin.buffer if file == _PIPE else stack.enter_context(_open(file))
        store = await stack.enter_async_context(_opened(app.find_store()[1]))
        found = await import_commits(store, opened, dry_run=dry_run)
    for problem in found.problems:
        print(f"eventsrc: {plain(problem)}", file=sys.stderr)
    parts = [
        f"{'would append' if dry_run else 'appended'} {show_count(found.appended, 'commit')}",
        f"{found.skipped:,} there already",
        f"{found.refused:,} refused",
        *(["with the positions of the source"] if found.positions_kept else []),
    ]
    output.show(", ".join(parts), found)
    return _PROBLEM if found.refused else _DONE


def _open(file: str) -> BinaryIO:
    """Open a file to read. Raises UsageError."""
    try:
        return Path(file).open("rb")
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None


@asynccontextmanager
async def _opened(store: Store) -> AsyncGenerator[Store]:
    """Open a store for this block, unless it is open: a program has opened it, and closes it."""
    try:
        await store.open()
    except StoreClosed:
        yield store
        return
    try:
        yield store
    finally:
        await store.aclose()
