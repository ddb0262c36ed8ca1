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
        self._prepared: dict[tuple[str, Decimal], str] = {}  # by the token of the transaction that is being stored
        self._answered: dict[str, Answer] = {}  # by the token

    def client(self) -> Any:
        """Return an object with the interface of the SDK's client."""
        return SimpleNamespace(
            meta=SimpleNamespace(events=SimpleNamespace(register=lambda *_, **__: None)),
            put_item=lambda **request: self._serve(lambda: self._put(request)),
            get_item=lambda **request: self._serve(lambda: self._get(request)),
            query=lambda **request: self._serve(lambda: self._query(request)),
            transact_write_items=lambda **request: self._serve(lambda: self._transact(request)),
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
            if isinstance(result, dict) and "_stored" in result:  # of a transaction, whose items are stored one by one
                await result["_stored"]
                result = {"ConsumedCapacity": [{"CapacityUnits": 2.0}]}
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
                error, reasons = failure(result.response["Error"]["Code"], 400), _reasons_of(result)
                if reasons and self._random.random() < 0.8:
                    error.response["CancellationReasons"] = [{"Code": each["Code"]} for each in reasons]
                raise error
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
        if (partition, sort) in self._prepared:
            raise failure("TransactionConflictException", 400)
        if not _holds(request, standing):
            raise failure(
                "ConditionalCheckFailedException",
                400,
                standing if request.get("ReturnValuesOnConditionCheckFailure") == "ALL_OLD" else None,
            )
        self._recent[partition] = [*self._recent[partition][-4:], (sort, standing)]
        self.partitions[partition][sort] = item
        return {"ConsumedCapacity": {"CapacityUnits": 1.0}}

    def _transact(self, request: Mapping[str, Any]) -> Answer:
        """Carry out all actions or none. The items are stored one by one, and in between, others conflict on them.

        A token is mostly honoured, as the service promises for ten minutes.
        """
        token = request.get("ClientRequestToken", "")
        if token and token in self._prepared.values():
            raise failure("TransactionInProgressException", 400)
        if token in self._answered and self._random.random() < 0.7:
            return self._answered[token]
        reasons: list[dict[str, Any]] = []
        puts: list[tuple[str, Decimal, Item]] = []
        for action in request["TransactItems"]:
            [(kind, content)] = action.items()
            key = content["Item"] if kind == "Put" else content["Key"]
            partition, sort = key["PK"]["S"], Decimal(key["SK"]["N"])
            standing = self.partitions[partition].get(sort)
            if (partition, sort) in self._prepared or (self.rate and self._random.random() < self.rate / 20):
                reasons.append({"Code": "TransactionConflict"})
            elif not _holds(content, standing):
                reasons.append({"Code": "ConditionalCheckFailed", "Item": standing})
            else:
                reasons.append({"Code": "None"})
                if kind == "Put":
                    puts.append((partition, sort, content["Item"]))
        if failed := [reason for reason in reasons if reason["Code"] != "None"]:
            if self.rate and self._random.random() < 0.3:  # as if it had stopped at one of them
                one = self._random.choice(failed)
                reasons = [reason if reason is one else {"Code": "None"} for reason in reasons]
            cancelled = failure("TransactionCanceledException", 400)
            cancelled.response["CancellationReasons"] = reasons
            raise cancelled
        answer: Answer = {"ConsumedCapacity": [{"CapacityUnits": 2.0}]}
        if token:
            self._answered[token] = answer
        if not self.rate:
            for partition, sort, item in puts:
                self.partitions[partition][sort] = item
            return answer
        return {"_stored": self._store_one_by_one(puts, token)}

    def _store_one_by_one(self, puts: list[tuple[str, Decimal, Item]], token: str) -> asyncio.Future[None]:
        """Store items at different moments. Return a future that ends with the last one."""
        loop, left = asyncio.get_running_loop(), {(partition, sort) for partition, sort, _ in puts}
        stored: asyncio.Future[None] = loop.create_future()

        def store(partition: str, sort: Decimal, item: Item) -> None:
            self.partitions[partition][sort] = item
            del self._prepared[partition, sort]
            left.discard((partition, sort))
            if not left and not stored.done():
                stored.set_result(None)

        for partition, sort, item in puts:
            self._prepared[partition, sort] = token
            loop.call_later(self._random.expovariate(100.0), store, partition, sort, item)
        if not puts:
            stored.set_result(None)
        return stored

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


def _reasons_of(error: ClientError) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = dict(error.response).get("CancellationReasons", [])
    return found


def failure(code: str, status: int, item: Item | None = None) -> ClientError:
    """Return the SDK's error for an answer of the service."""
    response: Any = {
        "Error": {"Code": code, "Message": "simulated"},
        "ResponseMetadata": {"HTTPStatusCode": status},
        **({"Item": item} if item is not None else {}),
    }
    return ClientError(response, "PutItem")
