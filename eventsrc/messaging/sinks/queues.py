"""SQS and SNS: queues and topics, standard and FIFO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .sink import Message, Refusal, aws_errors, is_passing

_ATTRIBUTE_BYTES = len("type") + len("String")


class SQSSink:
    """Sends events to an SQS queue. `client` is an open client of aiobotocore for SQS, which the caller closes.

    - To a FIFO queue, whose URL ends with `.fifo`: the message group is the stream, the deduplication id is the event's
      source and id, or their hash if they are longer than 128 characters or have others than visible ASCII.
    - The body is the CloudEvent, and its type is also the message attribute `type`.
    - `max_bytes` is the limit of a message and of a batch: 1 MiB, or the queue's `MaximumMessageSize` if that is less.
    """

    max_messages = 10

    def __init__(self, client: Any, queue_url: str, *, max_bytes: int = 1_048_576) -> None:
        self._client, self._url = client, queue_url
        self.max_bytes = self.max_batch_bytes = max_bytes
        self.is_ordered = queue_url.endswith(".fifo")

    def size_of(self, message: Message) -> int:
        return _size_of(message)

    async def send(self, messages: Sequence[Message]) -> Sequence[Refusal | None]:
        entries = [
            {"Id": str(number), "MessageBody": each.text, **_fields(each, self.is_ordered)}
            for number, each in enumerate(messages)
        ]
        async with aws_errors():
            answer = await self._client.send_message_batch(QueueUrl=self._url, Entries=entries)
        return _refusals(answer, len(messages))


class SNSSink:
    """Sends events to an SNS topic. `client` is an open client of aiobotocore for SNS, which the caller closes.

    - To a FIFO topic, whose ARN ends with `.fifo`, as to a FIFO queue: see SQSSink.
    - The message is the CloudEvent, and its type is also the message attribute `type`, by which subscriptions filter.
    - `max_bytes` is the topic's `MaximumMessageSize`, for a message and for a batch: 256 KiB unless it was raised.
    """

    max_messages = 10

    def __init__(self, client: Any, topic_arn: str, *, max_bytes: int = 262_144) -> None:
        self._client, self._topic = client, topic_arn
        self.max_bytes = self.max_batch_bytes = max_bytes
        self.is_ordered = topic_arn.endswith(".fifo")

    def size_of(self, message: Message) -> int:
        return _size_of(message)

    async def send(self, messages: Sequence[Message]) -> Sequence[Refusal | None]:
        entries = [
            {"Id": str(number), "Message": each.text, **_fields(each, self.is_ordered)}
            for number, each in enumerate(messages)
        ]
        async with aws_errors():
            answer = await self._client.publish_batch(TopicArn=self._topic, PublishBatchRequestEntries=entries)
        return _refusals(answer, len(messages))


def _size_of(message: Message) -> int:
    return len(message.text.encode()) + _ATTRIBUTE_BYTES + len(message.type.encode())


def _fields(message: Message, is_fifo: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {"MessageAttributes": {"type": {"DataType": "String", "StringValue": message.type}}}
    if is_fifo:
        fields |= {"MessageGroupId": message.group_key, "MessageDeduplicationId": message.deduplication_key}
    return fields


def _refusals(answer: Mapping[str, Any], count: int) -> list[Refusal | None]:
    """Return the outcome of each message. One that is not named in the answer was not taken."""
    taken = {str(each.get("Id")) for each in answer.get("Successful", ())}
    failed = {str(each.get("Id")): each for each in answer.get("Failed", ())}
    found: list[Refusal | None] = []
    for id in map(str, range(count)):
        if id in taken and id not in failed:
            found.append(None)
            continue
        code = str(failed.get(id, {}).get("Code", "NoAnswer"))
        found.append(Refusal(code, bool(failed.get(id, {}).get("SenderFault")) and not is_passing(code)))
    return found
