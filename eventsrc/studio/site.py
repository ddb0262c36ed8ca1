"""What all pages of the studio share: the program, its settings, and templates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from ..inspection import App
from ..inspection.events import read_events, show_value
from ..processes.describing import describe_recorded
from ..store import Commit, Store
from ..tracing.wording import plain, show_time

Fields = dict[str, Any]
Mask = Callable[[str, Fields], Fields]
"""Returns what may be shown of the fields of an event or a state. It is called with the tag or the category."""

_EVENTS = 100  # of a commit

FOLDER = Path(__file__).parent


class Site:
    """The program that is shown, what of it may be shown and changed, and the templates of its pages."""

    def __init__(self, app: App, *, write: bool, mask: Mask | None, actor: Callable[[Mapping[str, Any]], str]) -> None:
        self.app, self.write, self._mask, self.actor = app, write, mask, actor

    @cached_property
    def _templates(self) -> Environment:
        found = Environment(
            loader=FileSystemLoader(FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        found.filters.update(plain=plain, time=show_moment, value=show_value, duration=show_time)
        return found

    def render(
        self, request: Request, template: str, title: str, *, code: HTTPStatus = HTTPStatus.OK, **values: Any
    ) -> HTMLResponse:
        """Return a page. What is put into it is escaped."""
        known = {"root": request.scope.get("root_path", ""), "write": self.write, "title": plain(title), "site": self}
        return HTMLResponse(self._templates.get_template(template).render(known | values), code)

    def refuse(self, request: Request, problem: str, status: HTTPStatus = HTTPStatus.NOT_FOUND) -> HTMLResponse:
        """Return a page that says why there is nothing to show."""
        return self.render(request, "problem.html", status.phrase, code=status, problem=plain(problem))

    def show(self, kind: str, fields: Fields) -> Fields:
        """Return what may be shown of the fields of an event or a state: nothing, if the mask fails."""
        if self._mask is None:
            return fields
        try:
            return self._mask(kind, dict(fields))
        except Exception as error:  # noqa: BLE001  # its text may quote what it was to hide
            return {"the mask has failed": type(error).__name__}

    @property
    def masked(self) -> Callable[[str, Fields], Fields] | None:
        """`show` if there is a mask, or None."""
        return None if self._mask is None else self.show

    def show_error(self, error: Exception | str) -> str:
        """Return what may be shown of an error, whose text may quote an event: with a mask, its class."""
        text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        return plain(text if self._mask is None else text.partition(":")[0])

    def name_store(self, store: Store) -> str:
        """Return the name of a store of the program."""
        return next((name for name, each in self.app.stores.items() if each is store), "")

    def show_commit(self, store: str, commit: Commit) -> dict[str, Any]:
        """Return what a page shows of a commit; of one that is damaged, why."""
        events, damage, more = [], "", 0
        try:
            found = read_events(commit)
            more = max(0, len(found) - _EVENTS)
            for index, event in enumerate(found[:_EVENTS]):
                tag = str(event.get("$", ""))
                fields = describe_recorded(event, self.app.aggregates, self.masked)
                events.append({"id": str(commit.event_id(index)), "tag": tag, "fields": fields})
        except Exception as error:  # noqa: BLE001  # what is damaged is shown in its place
            damage = self.show_error(error)
        shown = {"store": store, "version": commit.version, "commit": commit, "events": events, "more": more}
        return {**shown, "damage": damage}


def show_moment(moment: datetime | int) -> str:
    """Return a time, or µs since the epoch, as `2026-01-31 12:00:00.000 UTC`."""
    at = datetime.fromtimestamp(moment / 1e6, UTC) if isinstance(moment, int) else moment.astimezone(UTC)
    return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03} UTC"
