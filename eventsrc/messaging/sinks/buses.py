"""EventBridge and Kinesis: buses and streams, whose answers have one entry for each message, in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .sink import Message, Refusal, aws_errors, is_passing


class EventBridgeSink:
    """Sends events to an EventBridge bus. `client` is an open client of aiobotocore, which the caller closes.

    - `Source` and `DetailType` are the source and the type of the CloudEvent, which is the whole `Detail`.
    - EventBridge keeps no order, and may deliver an event twice: targets recognise it by `detail.id`.
    - `max_bytes` is the limit of an entry and of a batch: below 1 MB.
    """

    max_messages = 10
    is_ordered = False

    def __init__(self, client: Any, bus: str, *, max_bytes: int = 999_999) -> None:
        self._client, self._bus = client, bus
        self.max_bytes = self.max_batch_bytes = max_bytes

    def size_of(self, message: Message) -> int:
        return len(message.source.encode()) + len(message.type.encode()) + len(message.text.encode())

    async def send(self, messages: Sequence[Message]) -> Sequence[Refusal | None]:
        entries = [
            {"EventBusName": self._bus, "Source": each.source, "DetailType": each.type, "Detail": each.text}
            for each in messages
        ]
        async with aws_errors():
            answer = await self._client.put_events(Entries=entries)
        return _refusals(answer.get("Entries", ()), len(messages))


class KinesisSink:
    """Sends events to a Kinesis data stream. `client` is an open client of aiobotocore, which the caller closes.

    - The partition key is the stream, with the source, or their hash: so a shard has the events of a stream in order.
    - The data of a record is the CloudEvent.
    - `max_bytes` is the limit of a record with its key: 1 MiB, or the stream's `MaxRecordSizeInKiB` if it was raised. A
      batch has up to 5 MiB.
    """

    max_messages = 500
    is_ordered = True

    def __init__(self, client: Any, stream_arn: str, *, max_bytes: int = 1_048_576) -> None:
        self._client, self._stream = client, stream_arn
        self.max_bytes, self.max_batch_bytes = max_bytes, max(max_bytes, 5 * 1_048_576)

    def size_of(self, message: Message) -> int:
        return len(message.body) + len(message.group_key)

    async def send(self, messages: Sequence[Message]) -> Sequence[Refusal | None]:
        records = [{"Data": each.body, "PartitionKey": each.group_key} for each in messages]
        async with aws_errors():
            answer = await self._client.put_records(StreamARN=self._stream, Records=records)
        return _refusals(answer.get("Records", ()), len(messages))


def _refusals(entries: Sequence[dict[str, Any]], count: int) -> list[Refusal | None]:
    """Return the outcome of each message. One without an entry was not taken."""
    found: list[Refusal | None] = []
    for number in range(count):
        code = entries[number].get("ErrorCode") if number < len(entries) else "NoAnswer"
        found.append(Refusal(str(code), not is_passing(str(code)) and code != "NoAnswer") if code else None)
    return found
