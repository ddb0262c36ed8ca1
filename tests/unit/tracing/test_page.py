"""The HTML page of a trace: its structure, its policy, its size, and names that stay texts, there and in the SVG."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any
from unicodedata import category
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st
from support.traces import many, small_trace, step, trace_of, worst_trace

from eventsrc.tracing import Handling, Trace, TracedEvent, draw_lanes, draw_page

VOID = {"meta", "rect", "path", "circle"}


class Elements(HTMLParser):
    """The elements of a page, with the names of their attributes, and its texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.deepest = 0
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))
        if tag not in VOID:
            self.open.append(tag)
            self.deepest = max(self.deepest, self.open.count("ul"))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)


def build(names: list[str]) -> Trace:
    """Return a trace of the same form for any ten names."""
    tag, service, actor, handler, command_id, outside, processor, error, damage, id = names
    fields: dict[str, Any] = {
        "store": service or "store",
        "actor": actor or "actor",
        "handler": handler or "handler",
        "outside": (outside,),
        "handled": (Handling(processor or "p", "parked", error or "error", 2),),
    }
    commanded: dict[str, Any] = {**fields, "handler": "", "command_id": command_id or "c"}
    return trace_of(
        step(f"{id}@1", tag=f"{tag}1", **fields),
        step(f"{id}@2", 0, tag=f"{tag}2", **commanded),
        step(f"{id}@3", 0, tag=f"{tag}3", damage=damage or "damage", events=(TracedEvent(id, f"{tag}3"),), store="s"),
        *(step(f"{id}{number}@4", 1, tag=f"{tag}4", **fields) for number in range(4)),
        id=id,
        failures=(error,),
    )


PLAIN = build([f"name{number}" for number in range(10)])
markup = st.sampled_from(
    ["<script>alert(1)</script>", '" onload="x', "' x='", "&lt;", "]]>", "-->", "</title>", "\x00"]
)
names = st.lists(
    st.one_of(st.text(st.characters(), max_size=20), markup, st.text('<>"&\u202e\u2028\ud800\x1b', max_size=9)),
    min_size=10,
    max_size=10,
)


@given(names)
def test_no_element_or_attribute_comes_from_a_name(names: list[str]) -> None:
    trace = build(names)
    svg, page = draw_lanes(trace), draw_page(trace)

    def is_fitted(name: str) -> bool:
        return name in ("textLength", "lengthAdjust")  # of texts that are not ASCII

    drawn, plain = (
        [
            (each.tag, *((name, "" if name in ("aria-label", "d") else value) for name, value in each.items()))
            for each in ElementTree.fromstring(picture).iter()
        ]
        for picture in (svg, draw_lanes(PLAIN))
    )
    assert [each[0] for each in drawn] == [each[0] for each in plain]
    for one, other in zip(drawn, plain, strict=True):
        attributes = [attribute for attribute in one[1:] if not is_fitted(attribute[0])]
        assert [name for name, _ in attributes] == [name for name, _ in other[1:]]
        assert [value for name, value in attributes if name == "class"] == [
            value for name, value in other[1:] if name == "class"
        ]

    def elements(page: str) -> list[tuple[str, ...]]:
        found = Elements(page).found
        return [(tag, *(name for name in each if name not in ("textlength", "lengthadjust"))) for tag, each in found]

    assert elements(page) == elements(draw_page(PLAIN))
    assert {each for each in page + svg if not each.isprintable()} == {"\n"}
    assert not any(category(each) == "Cf" for each in page)  # nor turns a text around


def test_the_page_stands_alone() -> None:
    page = draw_page(small_trace())
    assert "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'" in page
    found = Elements(page)
    assert not {"script", "link", "img", "iframe", "object", "a", "use"} & {tag for tag, _ in found.found}
    assert not {"href", "src", "style"} & {name for _, each in found.found for name in each}
    assert page.replace('xmlns="http://www.w3.org/2000/svg"', "").count("http") == 1  # of http-equiv
    assert "url(" not in page
    assert "@import" not in page


def test_the_page_has_a_language_a_title_headings_and_a_picture_that_the_keyboard_reaches() -> None:
    page = draw_page(small_trace())
    assert '<html lang="en">' in page
    assert "<title>Trace request-9</title>" in page
    assert [tag for tag, _ in Elements(page).found if tag in ("h1", "h2")] == ["h1", "h2", "h2"]
    assert ("div", ("class", "role", "aria-labelledby", "tabindex")) in Elements(page).found
    assert "failed: mail@1 at order-7@2: parked after 5 attempts: SMTPException: no route" in page
    assert "not read: archive: StoreUnavailable: no connection" in page


def test_equal_siblings_open_on_demand_with_those_that_failed_first() -> None:
    page = draw_page(
        trace_of(
            step("a-1@1"),
            *(step(f"b-{n}@1", 0, tag="letter.sent") for n in range(211)),
            step("b-211@1", 0, tag="letter.sent", handled=(Handling("mail@1", "parked", "no route", 5),)),
        )
    )
    [details] = page.split("<details>")[1:]
    members = details.split("</details>")[0].split("<li>")[1:]
    assert len(members) == 21
    assert "b-211@1" in members[0]
    assert members[-1].startswith("and 192 more<")


def test_long_chains_are_not_nested_without_end() -> None:
    page = draw_page(trace_of(*(step(f"a-{n}@1", *([n - 1] if n else []), ms=n) for n in range(300))))
    assert Elements(page).deepest == 13
    assert page.count("↳ ") == 287
    assert "a-299@1" in page


def test_large_pages_are_bounded_and_the_rest_is_counted() -> None:
    for trace in (many(10_000), worst_trace(2_000)):
        page = draw_page(trace)
        assert len(page.encode()) < 300_000
        listed = page.split("<h2>Steps</h2>")[1].count("<li>")
        assert listed > 3
        assert f"<p>and {len(trace.steps) - listed:,} more steps, not listed</p>" in page
        Elements(page)
