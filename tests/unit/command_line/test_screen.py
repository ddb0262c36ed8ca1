"""The status on standard error: a line that is drawn again on a terminal, and a line every ten seconds elsewhere."""

from __future__ import annotations

from io import StringIO

from eventsrc.command_line.screen import Screen, draw_bar


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True

    @property
    def visible(self) -> list[str]:
        """What somebody sees: characters after a carriage return replace those of the line."""
        lines = []
        for line in self.getvalue().split("\n"):
            seen = ""
            for part in line.split("\r"):
                seen = part + seen[len(part) :]
            lines.append(seen.rstrip())
        return lines


def test_the_bar_shows_the_part_that_is_done() -> None:
    assert draw_bar("mail@2", 0, 0) == f"mail@2  [{'#' * 30}]  100%  0 of 0 commits"
    assert draw_bar("mail@2", 1_999, 4_000) == f"mail@2  [{'#' * 14}{'.' * 16}]  49%  1,999 of 4,000 commits"


def test_lines_appear_above_the_status_of_a_terminal() -> None:
    screen = Screen(terminal := Terminal())
    screen.show("long status 1")
    screen.show("status 2")
    assert terminal.visible == ["status 2"]
    screen.write("a warning\n")
    assert terminal.visible == ["a warning", "status 2"]
    screen.show("x" * 200)
    assert [len(line) for line in terminal.visible] == [9, 79]
    screen.show("")
    assert terminal.visible == ["a warning", ""]


def test_without_a_terminal_the_status_is_a_line_every_ten_seconds() -> None:
    now, stream = 0.0, StringIO()
    screen = Screen(stream, lambda: now)
    for now in (0.2, 9.9, 10.0, 10.2, 19.9, 21.0, 30.9):
        screen.show(f"at {now}")
    screen.write("a warning\n")
    screen.show("")
    assert stream.getvalue() == "at 10.0\nat 21.0\na warning\n"
