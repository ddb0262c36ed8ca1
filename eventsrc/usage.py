"""The resources that a store has used, as numbers that can be added."""

from __future__ import annotations

import msgspec


class Usage(msgspec.Struct, kw_only=True):
    """The usage of one append, on its receipt, or of a store since it was made.

    - Requests and units are those of DynamoDB. A request is one HTTP exchange; failed attempts count too.
    - Units are those that the service reported. A refused write is billed but not reported, so its units are missing.
    - Bytes are approximate sizes of commits, as the snapshot policy weighs them. `bytes_read` is counted only on
      DynamoDB, and includes snapshots.
    """

    calls: int = 0  # of the store's methods; each page of a read counts as one
    requests: int = 0
    retries: int = 0  # requests after the first one of a call or page
    conflicts: int = 0  # appends that raised ConflictError
    read_units: float = 0.0
    write_units: float = 0.0
    bytes_written: int = 0
    bytes_read: int = 0

    def add(self, other: Usage) -> None:
        """Add another usage to this one. Each append calls it, so it is spelt out for speed."""
        self.calls += other.calls
        self.requests += other.requests
        self.retries += other.retries
        self.conflicts += other.conflicts
        self.read_units += other.read_units
        self.write_units += other.write_units
        self.bytes_written += other.bytes_written
        self.bytes_read += other.bytes_read
