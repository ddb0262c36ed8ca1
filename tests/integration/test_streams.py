"""Records of a real DynamoDB Stream: decoded, and through the gate each commit once and in order."""

from __future__ import annotations

from random import Random

from tables import fresh_name, records, store_on

from eventsrc import Commit
from eventsrc.gate import Gate
from eventsrc.storetests.samples import expect_same, fill, fresh_stream, make_snapshot


async def test_behind_the_gate_each_commit_comes_once_and_in_order(dynamodb_endpoint: str) -> None:
    dice = Random(1)
    async with store_on(dynamodb_endpoint, table := fresh_name(), tenant="acme") as store:
        await store.create_table(stream=True)
        streams: dict[str, list[Commit]] = {}
        for _ in range(4):
            stream = fresh_stream()
            streams[stream] = await fill(store, stream, 25)
            await store.put_snapshot(make_snapshot(stream, 20))
        told = await records(dynamodb_endpoint, table)
        assert len(told) == 104
        told += dice.sample(told, 20)
        dice.shuffle(told)
        lost = set(dice.sample(range(len(told)), 30))
        told = [record for number, record in enumerate(told) if number not in lost]
        gate, handled = Gate(store, {}), list[Commit]()
        last = [commits[-1] for commits in streams.values()]  # what comes later brings what was lost
        for hint in (*(change.commit for change in store.changes(told)), *last):
            for commit in await gate.due(hint) if hint else ():
                handled.append(commit)
                gate.handled(commit)
    for stream, commits in streams.items():
        expect_same([commit for commit in handled if commit.stream == stream], commits, stream)
