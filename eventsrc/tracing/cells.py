"""Texts of a known width: so many cells of a font in which all characters are equally wide."""

from __future__ import annotations

from unicodedata import east_asian_width

from .wording import plain

CELL = 7.3
"""The width of a character in px. No common monospaced font of 12 px is wider."""


def shorten(text: str, cells: int) -> str:
    """Return a text on one line that is at most so many characters wide."""
    shown = plain(text)
    if count_cells(shown) <= cells:
        return shown
    while count_cells(shown) >= cells:
        shown = shown[:-1]
    return f"{shown}…"


def count_cells(text: str) -> int:
    return len(text) + sum(east_asian_width(each) in "WF" for each in text)
