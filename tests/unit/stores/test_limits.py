"""The size of a commit is never below what DynamoDB counts, so that a commit within the limit is not refused there."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from eventsrc.store import Commit
from eventsrc.stores.dynamodb.items import Items
from eventsrc.stores.limits import item_size
from eventsrc.testing.contract.samples import make_commit

TEXTS = st.lists(st.text(st.characters(codec="utf-8"), max_size=5), max_size=200)


def count_bytes(value: dict[str, Any]) -> int:
    """Return the bytes of an attribute by the rules of the vendor's guide ("DynamoDB item sizes and formats")."""
    [(kind, content)] = value.items()
    match kind:
        case "S":
            return len(content.encode())
        case "B":
            return len(content)
        case "N":
            digits = Decimal(content).normalize().as_tuple().digits
            return (len(digits) + 1) // 2 + 2
        case "L":
            return 3 + sum(1 + count_bytes(each) for each in content)
        case _:
            return 3 + sum(1 + len(name.encode()) + count_bytes(each) for name, each in content.items())


def count_item(commit: Commit) -> int:
    item = Items("PK", "SK", None).from_commit(commit)
    return sum(len(name.encode()) + count_bytes(value) for name, value in item.items())


@given(TEXTS, TEXTS, TEXTS)
def test_no_texts_make_an_item_larger_than_its_size(tags: list[str], causes: list[str], metadata: list[str]) -> None:
    commit = make_commit(
        "account-1",
        2**53 - 2,
        payload=b"",
        tags=tuple(tags),
        causation_ids=tuple(causes),
        metadata=dict.fromkeys(metadata, "value"),
        correlation_id="c" * 200,
        command_id="k" * 200,
        command_digest=bytes(32),
    )
    assert count_item(commit) <= item_size(commit)


def test_each_text_has_the_bytes_of_its_header() -> None:
    texts = tuple(f"{number}" for number in range(5_000))
    fields: dict[str, Any] = {"tags": texts, "causation_ids": texts, "metadata": dict.fromkeys(texts, "")}
    none = make_commit("account-1", tags=(), causation_ids=(), metadata={})
    for name, value in fields.items():
        many = make_commit("account-1", 1, **{"tags": (), name: value})
        assert item_size(many) - item_size(none) >= count_item(many) - count_item(none)
