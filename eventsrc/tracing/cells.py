"""Texts of a known width, so many cells of a font in which all characters are equally wide, and how they look."""

from __future__ import annotations

from html import escape
from itertools import accumulate
from unicodedata import east_asian_width

from .wording import plain

CELL = 7.3
"""The width of a character in px. No common monospaced font of 12 px is wider."""

STYLE = """
.lanes{font:12px ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace}
.lanes .ground{fill:#fff}
.lanes text{fill:#1a1a1a;stroke:#fff;stroke-width:4px;paint-order:stroke;white-space:pre}
.lanes .dim{fill:#595959}
.lanes .strong{font-weight:bold}
.lanes .rule{stroke:#bbb;fill:none}
.lanes .tick{stroke:#ccc;stroke-dasharray:1 4}
.lanes .fold{stroke:#595959;stroke-dasharray:4 4}
.lanes .line{stroke:#6b6b6b;fill:none;stroke-width:1.3}
.lanes .done,.lanes .open,.lanes .failed{stroke:#1a1a1a}
.lanes .done{fill:#0072b2}
.lanes .open{fill:#fff;stroke:#a65300;stroke-width:2.5}
.lanes .failed{fill:#d55e00}
.lanes .several{fill:#fff;stroke:#0072b2;stroke-width:1.5}
@media(prefers-color-scheme:dark){
.lanes .ground{fill:#16181c}
.lanes text{fill:#ececec;stroke:#16181c}
.lanes .dim{fill:#b0b0b0}
.lanes .rule{stroke:#4a4d52}
.lanes .tick{stroke:#4a4d52}
.lanes .fold{stroke:#b0b0b0}
.lanes .line{stroke:#9a9a9a}
.lanes .done,.lanes .open,.lanes .failed{stroke:#ececec}
.lanes .done{fill:#56b4e9}
.lanes .open{fill:#16181c;stroke:#e69f00}
.lanes .failed{fill:#d55e00}
.lanes .several{fill:#16181c;stroke:#56b4e9}
}
"""
"""What all pictures look like, in light and dark. No two meanings differ by colour alone."""


def shorten(text: str, cells: int) -> str:
    """Return a text on one line that is at most so many characters wide."""
    shown = plain(text)
    if count_cells(shown) <= cells:
        return shown
    ends = accumulate(map(count_cells, shown[:cells]))
    return f"{shown[: sum(end < cells for end in ends)]}…"


def count_cells(text: str) -> int:
    return len(text) + sum(east_asian_width(each) in "WF" for each in text)


def draw_text(x: int, y: int, text: str, style: str, cells: int, anchor: str = "") -> str:
    """Return a text that is as wide as its characters should be, also in a script whose font is wider."""
    shown = shorten(text, cells)
    fitted = "" if shown.replace("…", "").isascii() else f' textLength="{CELL * count_cells(shown):.0f}"'
    fitted = f'{fitted} lengthAdjust="spacingAndGlyphs"' if fitted else ""
    style = f' class="{style}"' if style else ""
    anchor = f' text-anchor="{anchor}"' if anchor else ""
    return f'<text x="{x}" y="{y}"{style}{anchor}{fitted}>{escape(shown)}</text>'
