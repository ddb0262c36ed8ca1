"""One commit over several streams of one store, and unique values on top of it."""

from __future__ import annotations

from .deciding import transact
from .joint import Transaction, settle, transaction
from .unique import Reservations

__all__ = ["Reservations", "Transaction", "settle", "transact", "transaction"]
