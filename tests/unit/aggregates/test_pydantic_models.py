"""Models of pydantic as types of fields: each is read back exactly, or is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Generic, Literal, TypeVar
from zoneinfo import ZoneInfo

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    PrivateAttr,
    RootModel,
    SecretStr,
    computed_field,
    field_serializer,
    field_validator,
)
from support.field_types import declare, store

from eventsrc import (
    Aggregate,
    DeclarationError,
    Event,
    InvalidEvent,
    MemoryStore,
    Repository,
    SchemaMismatch,
    register_type,
)
from eventsrc.aggregates import custom_types, pydantic_models
from eventsrc.aggregates.codec import Codec, join, pack
from eventsrc.aggregates.custom_types import encode_custom
from eventsrc.aggregates.declaration import declaration_of
from eventsrc.aggregates.shape import shape_of
from eventsrc.publishing import PublishedEvent
from eventsrc.publishing.catalogue import Catalogue
from eventsrc.testing import given as scenario

T = TypeVar("T")


class Money(BaseModel):
    amount: Decimal
    currency: str = "EUR"


class Price(Money):
    tax: int = 19


class Invoice(BaseModel):
    total: Money
    lines: list[Money] = []
    at: datetime | None = None


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str


class Private(BaseModel):
    name: str
    _calls: int = PrivateAttr(default=0)


class Aliased(BaseModel):
    first: int = Field(validation_alias="First", serialization_alias="one")
    inner: Money | None = None


class Growing(BaseModel):
    number: int

    @field_validator("number")
    @classmethod
    def grow(cls, number: int) -> int:
        return number + 1


class Computed(BaseModel, frozen=True, extra="forbid"):
    number: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return 2 * self.number

    @cached_property
    def half(self) -> float:
        return self.number / 2


class Card(BaseModel):
    kind: Literal["card"] = "card"
    number: str


class Cash(BaseModel):
    kind: Literal["cash"] = "cash"


class Payment(RootModel[Annotated[Card | Cash, Field(discriminator="kind")]]):
    pass


class Box(BaseModel, Generic[T]):
    item: T


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)
    members: frozenset[int]
    amount: Decimal
    day: date
    pair: tuple[int, str]
    by_number: dict[int, str] = {}


class Content(BaseModel):
    content: Any


class Bytes(BaseModel):
    content: bytes


class Encoded(Bytes):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")


class Site(BaseModel):
    url: HttpUrl


class Code(RootModel[str], frozen=True):
    pass


class Login(BaseModel):
    password: SecretStr


class Logins(BaseModel):
    by_name: dict[str, Login] = {}


class Shown(Login):
    @field_serializer("password")
    def show(self, password: SecretStr) -> str:
        return password.get_secret_value()


class Hidden(BaseModel):
    number: int = Field(0, exclude=True)


class Cents(BaseModel):
    cents: int


class Moved(Event, tag="moved"):
    money: Money


class MovedLater(Event, tag="moved"):
    money: Cents


class Shelf(Aggregate, tag="shelf"):
    first: Money | None = None
    second: Money | None = None

    def apply_moved(self, event: Moved) -> None:
        self.first = self.second = event.money


BERLIN = datetime(2026, 7, 1, 9, tzinfo=ZoneInfo("Europe/Berlin"))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Money, Money(amount=Decimal("1.50"))),
        (Money, Money(amount=Decimal("1.500"), currency="USD")),
        (list[Money], [Money(amount=Decimal(1)), Money(amount=Decimal(1))]),
        (dict[str, Money | None], {"a": Money(amount=Decimal(1)), "b": None}),
        (Invoice, Invoice(total=Money(amount=Decimal(1)), lines=[Money(amount=Decimal(2), currency="EUR")])),
        (Invoice, Invoice(total=Money(amount=Decimal(1)), at=datetime(2026, 7, 1, tzinfo=UTC))),
        (Invoice, Invoice(total=Money(amount=Decimal(1)), at=BERLIN.replace(tzinfo=None))),
        (Invoice, Invoice(total=Money(amount=Decimal(1)), at=BERLIN)),
        (Open, Open.model_validate({"name": "ann", "more": [1, {"a": None}]})),
        (Private, Private(name="ann")),
        (Aliased, Aliased.model_validate({"First": 1, "inner": {"amount": "2"}})),
        (Computed, Computed(number=3)),
        (Payment, Payment(Card(number="1"))),
        (Payment, Payment(Cash())),
        (Box[int], Box[int](item=7)),
        (Box[Money], Box[Money](item=Money(amount=Decimal(1)))),
        (Strict, Strict(members=frozenset({1, 2}), amount=Decimal("1.0"), day=date(2026, 1, 1), pair=(1, "a"))),
        (Content, Content(content={"a": [1, None, "b", 1.5]})),
        (Bytes, Bytes(content=b"text")),
        (Encoded, Encoded(content=b"\xff")),
        (Site, Site(url=HttpUrl("https://example.org/a"))),
        (Shown, Shown(password=SecretStr("known"))),
        (set[Computed], {Computed(number=1), Computed(number=2)}),
        (dict[Code, int], {Code("a"): 1}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_model_is_read_back_with_all_that_it_has(kind: Any, value: Any) -> None:
    found = store(kind, value)
    assert found == value
    if isinstance(value, BaseModel):
        assert type(found) is type(value)
        assert found.model_fields_set == value.model_fields_set


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        (Money, Price(amount=Decimal(1)), "another value, at `$.value`"),
        (Money, Money.model_construct(amount="a secret"), "encode function of Money raises PydanticSerializationError"),
        (Money, {"amount": 1}, "another value, at `$.value`"),
        (list[Money], [Price(amount=Decimal(1))], "another value, at `$.value[...]`"),
        (Invoice, Invoice(total=Price(amount=Decimal(1))), "another value, at `$.value.total`"),
        (Open, Open.model_validate({"name": "a", "secret": date(2026, 1, 1)}), "`$.value.extra[...]`"),
        (Growing, Growing(number=1), "another value, at `$.value.number`"),
        (Box[int], Box(item=7), "another value, at `$.value`"),
        (Bytes, Bytes(content=b"\xff"), "encode function of Bytes raises UnicodeDecodeError"),
        (Content, Content(content=(1, 2)), "another value, at `$.value.content`"),
        (Content, Content(content=2**70), "an integer needs more than 64 bits"),
        (Content, Content(content=float("nan")), "another value, at `$.value.content`"),
        (dict[Computed, int], {Computed(number=1): 1}, "unhashable"),
    ],
)
def test_a_model_that_would_be_read_back_changed_is_refused(kind: Any, value: Any, reason: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        store(kind, value)
    assert reason in str(caught.value)
    assert "secret" not in repr(caught.value)


def test_a_private_attribute_that_is_not_the_default_is_refused() -> None:
    private = Private(name="ann")
    private._calls = 1
    with pytest.raises(InvalidEvent, match=r"another value, at `\$\.value\.private"):
        store(Private, private)


def test_a_cached_property_of_a_frozen_model_is_computed_again() -> None:
    computed = Computed(number=3)
    assert computed.half == 1.5
    assert store(Computed, computed) == computed


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Hidden, r"Hidden\.number: has exclude=True"),
        (Login, r"Login\.password: holds a secret"),
        (Logins, r"Login\.password: holds a secret"),
        (list[Box[Login]], r"Login\.password: holds a secret"),
        (HttpUrl, r"Put\.value: holds HttpUrl, which has no stored form"),
    ],
)
def test_a_model_of_which_fields_are_not_stored_is_refused_when_declared(kind: Any, reason: str) -> None:
    with pytest.raises(DeclarationError, match=reason):
        declare(kind)(id="1")


def test_a_union_of_models_needs_a_root_model() -> None:
    with pytest.raises(DeclarationError, match="may not contain more than one custom type"):
        declare(Card | Cash)(id="1")


def test_a_model_that_is_not_fully_defined_is_refused() -> None:
    class Late(BaseModel):
        other: NotYetDefined  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(DeclarationError, match=r"Late: is not fully defined: PydanticUndefinedAnnotation"):
        declare(Late)(id="1")


def test_an_old_pydantic_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pydantic, "VERSION", "2.10.6")
    with pytest.raises(DeclarationError, match=r"Money: is a model of pydantic 2\.10\.6; install"):
        declare(Money)(id="1")


def test_a_default_that_only_pydantic_reads_is_refused() -> None:
    @pydantic.dataclasses.dataclass
    class Line:
        count: int = Field(3, gt=0)

    with pytest.raises(DeclarationError, match=r"Line\.count: has a default that only pydantic reads"):
        declare(Line)(id="1")


def test_a_dataclass_of_pydantic_is_read_back() -> None:
    @pydantic.dataclasses.dataclass
    class Line:
        count: int = 3

    assert store(Line, Line(count=4)) == Line(count=4)


def test_a_model_may_have_functions_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(custom_types, "_registered", {})
    register_type(Money, encode=lambda money: str(money.amount), decode=lambda text: Money(amount=Decimal(text)))
    assert store(Money, Money(amount=Decimal("1.5"))) == Money(amount=Decimal("1.5"))
    assert encode_custom(Money(amount=Decimal(2))) == "2"


@settings(deadline=None, max_examples=100)
@given(
    st.builds(
        Content,
        content=st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(2**63), 2**64 - 1)
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(st.characters(codec="utf-8")),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
            max_leaves=8,
        ),
    )
)
def test_any_content_is_read_back(content: Content) -> None:
    holder = declaration_of(HOLDER)
    _, back = holder.codec.encode(HOLDER.Put(value=content))
    assert back.value == content  # type: ignore[attr-defined]


HOLDER = declare(Content)


def test_the_shape_changes_with_the_fields_of_a_model_and_of_those_within() -> None:
    def shape(kind: Any) -> str:
        return shape_of(msgspec.defstruct("State", [("value", kind)]))

    def model(**fields: Any) -> Any:
        return pydantic.create_model("Model", **fields)

    kinds = [
        model(a=(int, ...)),
        model(b=(int, ...)),
        model(a=(str, ...)),
        model(a=(int, 1)),
        model(a=(int, 2)),
        model(a=(int, ...), b=(int, ...)),
        model(a=(model(b=(int, ...)), ...)),
        model(a=(model(b=(str, ...)), ...)),
    ]
    assert len({shape(kind) for kind in kinds}) == len(kinds)
    assert shape(model(a=(int, 1))) == shape(model(a=(int, 1)))


def test_a_model_that_is_at_two_places_of_a_state_is_not_kept() -> None:
    with pytest.raises(AssertionError, match=r"Shelf\.\w+ is one object at two places"):
        scenario(Shelf, Moved(money=Money(amount=Decimal(1))))


def test_an_event_that_a_changed_model_does_not_accept_names_the_stream() -> None:
    body = join([Codec([Moved], {}).encode(Moved(money=Money(amount=Decimal(1))))[0]])
    with pytest.raises(
        SchemaMismatch, match=r"decode function of Cents raises ValidationError - at `\$\[0\]"
    ) as caught:
        Codec([MovedLater], {}).decode(pack(body, "holder-1", 7), "holder-1", 7)
    assert (caught.value.stream, caught.value.version, caught.value.event) == ("holder-1", 7, "moved")
    assert caught.value.__cause__ is None


async def test_a_published_event_shows_what_pydantic_makes_of_a_model() -> None:
    holder = declare(Money)
    async with MemoryStore() as memory:
        aggregate = holder(id="1")
        aggregate.put(Money(amount=Decimal(1)))
        await Repository(holder, memory).save(aggregate)
        [commit] = (await memory.load(aggregate.stream))[1]
        catalogue = Catalogue([PublishedEvent(holder.Put, type="put")], (), "/holders", tracing=False)
        [(_, _, body)] = catalogue.encode(commit)
        assert msgspec.json.decode(body)["data"] == {"value": {"amount": "1", "currency": "EUR"}}


def test_the_library_does_not_import_pydantic() -> None:
    code = "import sys, eventsrc.testing, eventsrc.processing; print({'pydantic', 'attr', 'attrs'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_what_is_stored_says_which_fields_are_not_set() -> None:
    invoice = Invoice(total=Money(amount=Decimal(1)), lines=[Money(amount=Decimal(2), currency="EUR")])
    stored: Mapping[str, Any] = pydantic_models.dump(invoice)
    assert stored["$unset"] == [["at"], ["currency"], []]
    full = Money(amount=Decimal(1), currency="EUR")
    assert pydantic_models.dump(full) == {"amount": "1", "currency": "EUR"}
