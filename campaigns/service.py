"""A simulated DynamoDB with all the faults that the real one can have.

It replaces the SDK's client, so all of the library's code runs above it. The fault of each request is drawn from one
source of random numbers. With `rate` 0 there are no faults.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from decimal import Decimal
from random import Random
from types import SimpleNamespace
from typing import Any

from botocore.exceptions import ClientError

HALF = Decimal("0.5")

Item = dict[str, Any]
Answer = dict[str, Any]

THROTTLES = ("ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded")
REFUSALS = ("AccessDeniedException", "ExpiredTokenException", "RequestTimeTooSkewed", "ResourceNotFoundException")
ODDITIES = ("InternalServerError", "TransactionInProgressException", "TeapotException", "")

FAULTS = {  # faults of a request, and their relative frequency
    "lost": 10,  # on the way there
    "answer lost": 14,  # on the way back
    "zombie": 10,  # carried out long after its caller saw a broken connection
    "twice": 8,  # carried out, and again later
    "throttled": 14,
    "throttled for long": 4,  # from now on for a while, each request
    "odd error": 12,  # an error that proves nothing: carried out or not
    "no answer": 8,  # a body that does not parse: the SDK returns it as an empty success
    "stall": 5,
    "slow": 8,
    "no item": 6,  # a failed condition does not return the stored item
    "refused": 2,
    "empty page": 4,
}
_KINDS, _WEIGHTS = list(FAULTS), list(FAULTS.values())


class Broken(Exception):
    """The error of a broken connection."""


class Service:
    """One table, with the hash key PK and the range key SK."""

    def __init__(self, random: Random, *, rate: float, deadline: float) -> None:
        self.rate = rate
        self.injected: Counter[str] = Counter()
        self.partitions: dict[str, dict[Decimal, Item]] = defaultdict(dict)
        self._recent: dict[str, list[tuple[Decimal, Item | None]]] = defaultdict(
            list
        )  # items before the latest writes, newest last
        self._random = random
        self._deadline = deadline
        self._throttled_until = 0.0

    def client(self) -> Any:
        """Return an object with the interface of the SDK's client."""
        return SimpleNamespace(
            meta=SimpleNamespace(events=SimpleNamespace(register=lambda *_, **__: None)),
            put_item=lambda **request: self._serve(lambda: self._put(request)),
            get_item=lambda **request: self._serve(lambda: self._get(request)),
            query=lambda **request: self._serve(lambda: self._query(request)),
        )

    async def _serve(self, carry_out: Callable[[], Answer]) -> Answer:
        """Carry a request out or not, and answer or not. A cancellation may be too late to stop the request."""
        random, loop = self._random, asyncio.get_running_loop()
        fault = self._draw()
        there, back = random.expovariate(200.0), random.expovariate(200.0)
        if fault == "slow":
            there, back = there + random.random() * self._deadline, back + random.random() * self._deadline
        late = there + random.random() * 3 * self._deadline
        happens = fault not in ("lost", "throttled", "refused")
        if fault in ("odd error", "no answer", "stall"):
            happens = random.random() < 0.5
        survives = random.random() < 0.5  # the request survives a cancellation
        answer: asyncio.Future[Answer | Exception] = loop.create_future()

        def arrive() -> None:
            try:
                result: Answer | Exception = carry_out()
            except ClientError as error:
                result = error
            if not answer.done():
                answer.set_result(result)

        arrivals = []
        if happens:
            arrivals.append(loop.call_later(late if fault == "zombie" else there, arrive))
        if fault == "twice":
            loop.call_later(late, arrive)
        try:
            if fault == "stall":
                await asyncio.sleep(1e6)
            result = await answer if happens and fault != "zombie" else {}
            await asyncio.sleep(back)
        except asyncio.CancelledError:
            if not survives:
                for arrival in arrivals:
                    arrival.cancel()
            raise
        return self._tell(fault, result)

    def _tell(self, fault: str | None, result: Answer | Exception) -> Answer:
        """Return or raise the answer that the caller receives."""
        match fault:
            case "lost" | "answer lost" | "zombie":
                raise Broken
            case "throttled":
                raise failure(self._random.choice(THROTTLES), 400)
            case "refused":
                raise failure(self._random.choice(REFUSALS), 400)
            case "odd error":
                raise failure(self._random.choice(ODDITIES), self._random.choice((400, 500, 503)))
            case "no answer":
                return {}
            case "no item" if isinstance(result, ClientError):
                raise failure(result.response["Error"]["Code"], 400)
            case "empty page" if isinstance(result, dict) and "_before" in result:
                return {**result, "Items": [], "LastEvaluatedKey": result["_before"]}
        if isinstance(result, Exception):
            raise result
        return result

    def _draw(self) -> str | None:
        now = asyncio.get_running_loop().time()
        if self.rate and now < self._throttled_until:
            self.injected["throttled"] += 1
            return "throttled"
        if self._random.random() >= self.rate:
            return None
        [fault] = self._random.choices(_KINDS, _WEIGHTS)
        self.injected[fault] += 1
        if fault == "throttled for long":
            self._throttled_until = now + self._random.random() * 2 * self._deadline
            return "throttled"
        return fault

    def _put(self, request: Mapping[str, Any]) -> Answer:
        item = request["Item"]
        partition, sort = item["PK"]["S"], Decimal(item["SK"]["N"])
        standing = self.partitions[partition].get(sort)
        if not _holds(request, standing):
            raise failure(
                "ConditionalCheckFailedException",
                400,
                standing if request.get("ReturnValuesOnConditionCheckFailure") == "ALL_OLD" else None,
            )
        self._recent[partition] = [*self._recent[partition][-4:], (sort, standing)]
        self.partitions[partition][sort] = item
        return {"ConsumedCapacity": {"CapacityUnits": 1.0}}

    def _get(self, request: Mapping[str, Any]) -> Answer:
        key = request["Key"]
        item = self._seen(request, key["PK"]["S"]).get(Decimal(key["SK"]["N"]))
        return {"ConsumedCapacity": {"CapacityUnits": 1.0}, **({"Item": item} if item else {})}

    def _query(self, request: Mapping[str, Any]) -> Answer:
        """Return a page. It ends at the limit, or anywhere before it."""
        values = request["ExpressionAttributeValues"]
        partition, low, high = values[":pk"]["S"], Decimal(values[":low"]["N"]), Decimal(values[":high"]["N"])
        items = self._seen(request, partition)
        forward = request["ScanIndexForward"]
        sorts = sorted((sort for sort in items if low <= sort <= high), reverse=not forward)
        before = {"PK": {"S": partition}, "SK": {"N": str(low - HALF if forward else high + HALF)}}
        before = request.get("ExclusiveStartKey", before)
        start = Decimal(before["SK"]["N"])
        sorts = [sort for sort in sorts if (sort > start if forward else sort < start)]
        size = self._random.randint(1, 12) if self._random.random() < 0.3 else 1000
        size = min(size, request.get("Limit", size))
        answer: Answer = {
            "ConsumedCapacity": {"CapacityUnits": 1.0},
            "Items": [items[sort] for sort in sorts[:size]],
            "_before": before,
        }
        if size <= len(sorts) and sorts:
            answer["LastEvaluatedKey"] = {"PK": {"S": partition}, "SK": {"N": str(sorts[size - 1])}}
        return answer

    def _seen(self, request: Mapping[str, Any], partition: str) -> Mapping[Decimal, Item]:
        """Return the partition as a read sees it. An eventually consistent read may miss the latest writes."""
        items = self.partitions[partition]
        if request.get("ConsistentRead"):
            return items
        items = dict(items)
        for sort, before in reversed(self._recent[partition][self._random.randint(0, 5) :]):
            if before is None:
                items.pop(sort, None)
            else:
                items[sort] = before
        return items


def _holds(request: Mapping[str, Any], standing: Item | None) -> bool:
    """Return whether the condition holds: one of the two that the library uses, or none."""
    condition = request.get("ConditionExpression")
    if condition is None or standing is None:
        return True
    if condition == "attribute_not_exists(#pk)":
        return False
    assert condition == "attribute_not_exists(#i) AND (attribute_not_exists(#v) OR #v < :v)", condition
    if request["ExpressionAttributeNames"]["#i"] in standing:
        return False
    name = request["ExpressionAttributeNames"]["#v"]
    return name not in standing or int(standing[name]["N"]) < int(request["ExpressionAttributeValues"][":v"]["N"])


def failure(code: str, status: int, item: Item | None = None) -> ClientError:
    """Return the SDK's error for an answer of the service."""
    response: Any = {
        "Error": {"Code": code, "Message": "simulated"},
        "ResponseMetadata": {"HTTPStatusCode": status},
        **({"Item": item} if item is not None else {}),
    }
    return ClientError(response, "PutItem")
