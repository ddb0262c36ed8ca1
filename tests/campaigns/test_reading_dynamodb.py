"""The campaign of the read side on DynamoDB Local, in its short form."""

from __future__ import annotations

from pathlib import Path

from campaigns.reading_dynamodb import campaign


async def test_each_commit_is_handled_once_and_in_order(dynamodb_endpoint: str, tmp_path: Path) -> None:
    layer = await campaign(1, 11, tmp_path, dynamodb_endpoint, workers=2, ttl=0.8)
    assert not layer.violations, "\n".join(layer.violations)
    assert (layer.lost, layer.duplicated) == (0, 0)
    assert layer.acknowledged > 50
    assert layer.kinds["SIGKILL"] == 1
    assert layer.faults > 5
