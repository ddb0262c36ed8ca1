"""The stores, classes and processors of a program, or the stores of some URLs."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from ..aggregates.aggregate import Aggregate
from ..aggregates.declaration import declaration_of
from ..errors import AggregateNotFound, EventsrcError, StoredDataError
from ..processing import Processor
from ..processing.parking import describe
from ..publishing import PublishedEvent
from ..store import Store
from ..stores.feed import Feed
from ..stores.url import open_store, parse_url
from ..stream_id import category_of


class App(NamedTuple):
    """What of a program can be looked into. The stores, and the checkpoints of the processors, are open."""

    stores: Mapping[str, Store]
    aggregates: Sequence[type[Aggregate]] = ()
    processors: Sequence[Processor[Any]] = ()
    published: Sequence[PublishedEvent[Any]] = ()

    def find_store(self) -> tuple[str, Store]:
        """Return the only store, after its name. Raises UsageError if there are several, or none."""
        if len(self.stores) != 1:
            known = f"there are several stores ({', '.join(self.stores)})" if self.stores else "there are no stores"
            raise UsageError(f"{known}; give one, with --store URL")
        return next(iter(self.stores.items()))

    async def locate(self, stream: str, *, store: str = "", version: int = 1) -> tuple[str, Store, int]:
        """Return the name of the store that has a version of a stream, the store, and the stream's last version.

        If several have it, it is the first of them, or the one that is named. Raises AggregateNotFound and StoreError.
        """
        lasts: dict[str, int] = {}
        for name, each in self.stores.items():
            if store in ("", name):
                if (last := await _last_version(each, stream)) >= version:
                    return name, each, last
                lasts[name] = last
        if store and store not in self.stores:
            raise UsageError(f"no store is named {store!r}; give one of {', '.join(self.stores)}")
        known = ", ".join(f"{name} has {last} of them" if last else f"{name} has none" for name, last in lasts.items())
        raise AggregateNotFound(
            stream,
            f"there is no version {version}: {known}"
            if any(lasts.values())
            else f"it has no commit in {', '.join(lasts)}",
        )

    def find_aggregate(self, stream: str) -> type[Aggregate]:
        """Return the class of a stream. Raises UsageError."""
        category = category_of(stream)
        for aggregate in self.aggregates:
            if declaration_of(aggregate).category == category:
                return aggregate
        known = ", ".join(declaration_of(each).category for each in self.aggregates) or "none"
        raise UsageError(f"no class of the app has the category {category!r} (known: {known}); give it with --app")

    def find_processor(self, name: str) -> Processor[Any]:
        """Return the processor with this name or tag. Raises UsageError."""
        for processor in self.processors:
            if name in (processor.name, processor.projection.tag):
                return processor
        known = ", ".join(each.name for each in self.processors) or "none"
        raise UsageError(f"no processor of the app is named {name!r} (known: {known}); give it with --app")


class UsageError(Exception):
    """What was asked for cannot be done; the message says what to give."""


def find_feed(name: str, store: Store) -> Feed:
    """Return a store as a feed. Raises UsageError if it has none."""
    if not isinstance(store, Feed):
        raise UsageError(f"the store {name} has no feed, so its streams cannot be listed or followed")
    return store


@asynccontextmanager
async def open_app(reference: str | None, urls: Sequence[str]) -> AsyncGenerator[App]:
    """Open the app of a reference such as `shop.main:app`, or the stores of these URLs.

    A URL may have a name before it, as in `orders=sqlite:///orders.db`. Raises UsageError.
    """
    async with AsyncExitStack() as stack:
        if reference:
            try:
                app = await stack.enter_async_context(_find_app(reference))
            except (UsageError, EventsrcError):  # a store of the program that cannot be used is named as such
                raise
            except Exception as error:  # whatever the program raises
                raise UsageError(f"{reference} failed: {describe(error)}") from error
            if not isinstance(app, App):
                raise UsageError(f"{reference} yields {type(app).__name__}; let it yield an eventsrc.inspection.App")
        else:
            app = App({})
        if urls:
            stores = make_stores(urls)
            app = app._replace(stores={name: await stack.enter_async_context(each) for name, each in stores.items()})
        if not app.stores:
            raise UsageError("no store is given; write --store sqlite:///file.db, or set EVENTSRC_STORE, or use --app")
        yield app


def make_stores(urls: Sequence[str], *, create: bool = False) -> dict[str, Store]:
    """Return the stores of these URLs by name, not yet open.

    With `create`, a file of SQLite may be missing; opening its store creates it. Raises UsageError.
    """
    named = [_to_store(url, create=create) for url in urls]
    if len({name for name, _ in named}) < len(named):
        raise UsageError("two stores have the same name; write --store NAME=URL")
    return dict(named)


async def _last_version(store: Store, stream: str) -> int:
    """Return the last version of a stream, also of one that is damaged; 0 if there is none."""
    try:
        async with aclosing(store.read(stream, backward=True)) as commits:
            last = await anext(commits, None)
    except StoredDataError as error:
        return error.version
    return last.version if last is not None else 0


def _find_app(reference: str) -> AbstractAsyncContextManager[Any]:
    module, colon, name = reference.partition(":")
    if not (module and colon and name):
        raise UsageError(f"{reference!r} is not an app; write module:attribute, as in shop.main:app")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found = import_module(module)
    except Exception as error:
        raise UsageError(f"{module} cannot be imported: {describe(error)}") from error
    if not callable(made := getattr(found, name, None)):
        raise UsageError(f"{module} has no function {name}, which returns an async context manager of an App")
    opened = made()
    if not isinstance(opened, AbstractAsyncContextManager):
        raise UsageError(f"{reference} returns {type(opened).__name__}; decorate it with @asynccontextmanager")
    return opened


def _to_store(given: str, *, create: bool) -> tuple[str, Store]:
    """Return the name and the store of `NAME=URL` or `URL`."""
    name, equals, url = given.partition("=")
    if not equals or ":" in name:
        name, url = "", given
    try:
        address = parse_url(url, options=("tenant", "layout"))
        store = open_store(url)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if address.scheme == "memory":
        raise UsageError("a store in memory belongs to one process; give the URL of a file or a table")
    if address.scheme == "sqlite" and not create and not Path(address.place).is_file():
        raise UsageError(f"there is no file {address.place}; give the URL of a file that exists")
    return name or Path(address.place).stem, store
