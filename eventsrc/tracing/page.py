"""A trace as a page: one HTML file that needs nothing else, as for a ticket."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from .grouping import Group, Grouping
from .lanes import draw_lanes
from .trace import Link, Trace
from .wording import has_failed, head_lines, is_open, name_state, note, plain, show_count, show_step

_BYTES = 290_000  # of the page; its list of steps has what the head and the picture leave
_HEAD_BYTES = 15_000
_DEEPEST = 12  # lists in lists; deeper steps are not indented further
_MEMBERS = 20  # steps that a group lists

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE = """
:root{color-scheme:light dark}
body{margin:1rem;font:15px/1.5 system-ui,sans-serif;color:#1a1a1a;background:#fff}
h1{font-size:1.3rem}
h2{font-size:1.1rem}
h1,li,p{overflow-wrap:anywhere}
ul{padding-left:1.3rem}
@media(max-width:40rem){ul ul{padding-left:.6rem}}
.head{list-style:none;padding:0}
.picture{overflow-x:auto;border:1px solid #bbb}
.picture svg{display:block}
.note{display:block;color:#595959}
.strong{font-weight:bold}
:focus-visible{outline:3px solid #0072b2}
@media(prefers-color-scheme:dark){
body{color:#ececec;background:#16181c}
.picture{border-color:#4a4d52}
.note{color:#b0b0b0}
:focus-visible{outline-color:#56b4e9}
}
"""


def draw_page(trace: Trace) -> str:
    """Return a trace as an HTML page of at most 300 KB: its head, its lanes, and its steps as a list.

    It runs no script and loads nothing, which its content security policy forbids, too. Steps that are drawn as one are
    listed on demand; the first 20 of them, those that failed or are open before the others.
    """
    title = escape(f"Trace {plain(trace.id)}")
    before = "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{title}</title>",
            f"<style>{_STYLE}</style>",
            "</head>",
            "<body>",
            "<main>",
            f"<h1>{title}</h1>",
            draw_head(trace),
            '<h2 id="lanes">Lanes</h2>',
            '<div class="picture" role="region" aria-labelledby="lanes" tabindex="0">',
            draw_lanes(trace),
            "</div>",
            "<h2>Steps</h2>",
        ]
    )
    steps = draw_steps(trace, _BYTES - len(before.encode()))
    return "\n".join([before, steps, "</main>", "</body>", "</html>"])


def draw_head(trace: Trace) -> str:
    """Return the lines of the head as a list, of at most 15 KB."""
    return "\n".join(['<ul class="head">', *_list_head(trace), "</ul>"])


def _list_head(trace: Trace) -> Iterator[str]:
    size = 0
    for line in head_lines(trace):
        item = f"<li>{escape(line)}</li>"
        if (size := size + len(item.encode())) > _HEAD_BYTES:
            yield "<li>and more</li>"
            return
        yield item


def draw_steps(trace: Trace, size: int, link: Link | None = None) -> str:
    """Return nested lists of at most `size` bytes: each step below the last of its causes, as in the tree.

    `link` returns the address of a step's page, if it has one.
    """
    return "\n".join(_list_steps(trace, size, link))


def _list_steps(trace: Trace, size: int, link: Link | None) -> Iterator[str]:
    depth, left_out = -1, 0
    for deep, group in Grouping(trace).walk():
        item = "" if left_out else _draw_item(trace, group, link, deeper=deep > _DEEPEST)
        size -= len(item.encode()) + 20
        if left_out or size < 0:
            left_out += len(group)
            continue
        deep = min(deep, _DEEPEST)
        yield "<ul>" if deep > depth else "</li>" + "</ul></li>" * (depth - deep)
        yield item
        depth = deep
    yield "</li></ul>" * (depth + 1)
    if left_out:
        yield f"<p>and {show_count(left_out, 'more step')}, not listed</p>"


def _draw_item(trace: Trace, group: Group, link: Link | None, *, deeper: bool) -> str:
    """Return the item of a group, without its end. `deeper` marks what would be indented further."""
    line = ("↳ " if deeper else "") + _draw_line(trace, group, link if len(group) == 1 else None)
    if len(group) == 1:
        return f"<li>{line}"
    steps = trace.steps
    ordered = sorted(group, key=lambda number: (not has_failed(steps[number]), not is_open(steps[number]), number))
    items = "".join(f"<li>{_draw_line(trace, [number], link)}</li>" for number in ordered[:_MEMBERS])
    more = f"<li>and {len(group) - _MEMBERS:,} more</li>" if len(group) > _MEMBERS else ""
    return f"<li><details><summary>{line}</summary><ul>{items}{more}</ul></details>"


def _draw_line(trace: Trace, numbers: Group, link: Link | None) -> str:
    style = "" if name_state([trace.steps[number] for number in numbers]) == "done" else ' class="strong"'
    label, *others = (f"<bdi>{escape(part)}</bdi>" for part in show_step(trace, numbers))
    shown = f"<span{style}>{label}</span>"
    if link is not None:
        shown = f'<a href="{escape(link(trace.steps[numbers[0]]))}">{shown}</a>'
    line = " · ".join([shown, *others])
    notes = "".join(f'<span class="note">{escape(each)}</span>' for each in note(trace, numbers))
    return line + notes
