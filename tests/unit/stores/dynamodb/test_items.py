"""Sort keys: whole numbers are versions of commits, and all other numbers are left to the layouts."""

from decimal import Decimal, localcontext
from typing import Any

import msgspec
import pytest

from eventsrc import CorruptPayload
from eventsrc.stores.dynamodb.items import Items, Stored
from eventsrc.stores.dynamodb.layouts.layout import HIGHEST, commit_version
from eventsrc.testing.contract.samples import make_commit

ITEMS = Items("PK", "SK", None)


def item_at(key: str) -> Stored:
    item: dict[str, Any] = {**ITEMS.from_commit(make_commit("a-1", 7)), "SK": {"N": key}}
    return msgspec.convert(item, ITEMS.stored)


@pytest.mark.parametrize("key", ["7", "7.0", "0.7E+1"])
def test_a_whole_number_is_the_version_of_a_commit(key: str) -> None:
    commit = ITEMS.to_commit_of_tenant(item_at(key))
    assert commit is not None
    assert (commit.stream, commit.version) == ("a-1", 7)


@pytest.mark.parametrize("key", ["0", "-1", "7.5", "7.25", str(HIGHEST), "1E+1000000"])
def test_any_other_number_is_not_a_commit(key: str) -> None:
    assert ITEMS.to_commit_of_tenant(item_at(key)) is None
    with pytest.raises(CorruptPayload):
        ITEMS.to_commit(item_at(key), "a-1")


@pytest.mark.parametrize("key", ["", "seven", "NaN", "sNaN", "Infinity", "7.5.5"])
def test_a_sort_key_that_is_not_a_number_is_corrupt(key: str) -> None:
    with pytest.raises(CorruptPayload, match="not a number"):
        ITEMS.to_commit_of_tenant(item_at(key))


def test_the_decimal_context_of_the_program_does_not_round_a_sort_key() -> None:
    with localcontext(prec=2):
        key = ITEMS.read_sort_key(item_at("9007199254740990.5"), "a-1")
        assert commit_version(key) is None
    assert key == Decimal("9007199254740990.5")
