"""A saga on eventsourcing, as its documentation shows: a process application that follows the orders."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from eventsourcing.application import Application, ProcessingEvent
from eventsourcing.dispatch import singledispatchmethod
from eventsourcing.domain import Aggregate, event
from eventsourcing.system import ProcessApplication, SingleThreadedRunner, System
from saga_domain import serve


class Order(Aggregate):
    @event("Placed")
    def __init__(self, sku: str, quantity: int) -> None:
        self.sku = sku
        self.quantity = quantity


class Stock(Aggregate):
    @event("Made")
    def __init__(self, sku: str) -> None:
        self.sku = sku
        self.reserved: dict[str, int] = {}

    @event("Reserved")
    def reserve(self, order: str, quantity: int) -> None:
        self.reserved[order] = quantity


class Saga(Aggregate):
    @event("Began")
    def __init__(self, order: str) -> None:
        self.order = order
        self.ended = False

    @event("Ended")
    def end(self) -> None:
        self.ended = True


class Orders(Application):
    pass


class Sagas(ProcessApplication):
    @singledispatchmethod
    def policy(self, domain_event: Any, processing_event: ProcessingEvent) -> None: ...

    @policy.register(Order.Placed)
    def _(self, domain_event: Any, processing_event: ProcessingEvent) -> None:
        order = str(domain_event.originator_id)
        saga, stock = Saga(order), Stock(domain_event.sku)
        stock.reserve(order, domain_event.quantity)
        saga.end()
        processing_event.collect_events(saga, stock)


def saga(where: str, count: int) -> dict[str, Any]:
    folder = Path(where)
    env = {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_LOCK_TIMEOUT": "30"}
    env |= {f"{name}_SQLITE_DBNAME": str(folder / f"{name}.db") for name in ("ORDERS", "SAGAS")}
    runner = SingleThreadedRunner(System(pipes=[[Orders, Sagas]]), env=env)
    runner.start()
    orders, sagas = runner.get(Orders), runner.get(Sagas)
    cpu, wall = time.process_time(), time.perf_counter()
    for number in range(count):
        orders.save(Order(f"s-{number}", 3))
    took = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    last = sagas.recorder.max_notification_id()
    runner.stop()
    assert last == 4 * count, last
    return took


serve(saga)
