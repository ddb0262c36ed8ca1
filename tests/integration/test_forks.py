"""Stores and checkpoints that are open while the process forks: the child may not use them, the parent goes ahead."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.tables import fresh_name

PROGRAM = """
import asyncio, json, os, sys
from eventsrc import MemoryStore, SQLiteStore
from eventsrc.processing import SQLiteCheckpoints
from eventsrc.testing.contract.samples import make_commit

kind, place, name = sys.argv[1:]
if "dynamodb" in kind:
    from support.tables import checkpoints_on, store_on  # here, because the SDK takes long to import
make = {
    "memory": MemoryStore,
    "sqlite": lambda: SQLiteStore(place),
    "dynamodb": lambda: store_on(place, name),
    "sqlite checkpoints": lambda: SQLiteCheckpoints(place),
    "dynamodb checkpoints": lambda: checkpoints_on(place, name),
}[kind]


async def write(at, version):
    await at.append(make_commit("account-1", version))


async def read(at):
    return [commit.version async for commit in at.read("account-1")]


async def follow(at):
    return [len(batch.commits) async for batch in at.feed(follow=False)]


async def positions(at):
    return len(await at.positions("balances@1", ["account-1"]))


async def attempt(call):
    try:
        return await asyncio.wait_for(call, 20)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


async def use(at, version):
    if "checkpoints" in kind:
        return [await attempt(positions(at))]
    return [await attempt(call) for call in (write(at, version), read(at), at.load("account-1"), follow(at))]


async def first():
    await at.open()
    if "dynamodb" in kind:
        await at.create_table(**{} if "checkpoints" in kind else {"stream": True})
    await use(at, 1)


async def child():
    return await use(at, 2) + [await attempt(at.open()), await attempt(at.aclose())]


async def child_with_its_own():
    async with make() as own:
        return "nothing kept" if kind == "memory" else str((await use(own, 2))[0])


async def parent():
    found = await use(at, 2 if kind == "memory" else 3)  # the child has written version 2 to shared data
    await at.aclose()
    return [str(each) for each in found]


at, loop = make(), asyncio.new_event_loop()
loop.run_until_complete(first())
receive, send = os.pipe()
if not os.fork():
    here = asyncio.new_event_loop() if os.environ.get("NEW_LOOP") else loop
    found = here.run_until_complete(child()), asyncio.run(child_with_its_own())
    os.write(send, json.dumps(found).encode())
    os._exit(0)
os.close(send)
found = os.fdopen(receive).read()
os.wait()
print(json.dumps([json.loads(found), loop.run_until_complete(parent())]))
"""


@pytest.mark.parametrize("loop", ["the same loop", "a new loop"])
@pytest.mark.parametrize("kind", ["memory", "sqlite", "dynamodb", "sqlite checkpoints", "dynamodb checkpoints"])
def test_what_is_open_is_refused_in_a_forked_child(
    kind: str, loop: str, dynamodb_endpoint: str, tmp_path: Path
) -> None:
    place = dynamodb_endpoint if "dynamodb" in kind else str(tmp_path / "ledger.db")
    child, own, parent = run(kind, place, {"NEW_LOOP": "1"} if loop == "a new loop" else {})
    *calls, opened, closed = child
    assert closed is None
    for refused in (*calls, opened):
        assert "make and open a new one in this process" in refused
        assert refused.startswith("StoreClosed")
    assert own in ("None", "0", "nothing kept")
    assert not [each for each in parent if "Error" in each or "StoreClosed" in each]


def run(kind: str, place: str, environment: dict[str, str]) -> tuple[list[Any], str, list[str]]:
    path = os.pathsep.join(["tests", "."])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, kind, place, fresh_name()],
        env={**os.environ, "PYTHONPATH": path, **environment},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (child, own), parent = json.loads(done.stdout)
    return child, own, parent
