"""What a store has consumed, as numbers that add up."""

from __future__ import annotations

import msgspec


class Usage(msgspec.Struct, kw_only=True):
    """Of one append on its receipt, or of all that a store has done since it was made.

    Requests and units are DynamoDB's: a request is one HTTP exchange, tries that failed included; units are those the
    service reported, so those of a refused write, which it bills and does not report, are missing. Bytes are about
    those of commits, as the snapshot policy weighs them; what was read, on DynamoDB only, is with snapshots.
    """

    calls: int = 0  # of the store's methods; pages of a read count one each
    requests: int = 0
    retries: int = 0  # requests beyond the first of a call or page
    conflicts: int = 0  # appends that came second
    read_units: float = 0.0
    write_units: float = 0.0
    bytes_written: int = 0
    bytes_read: int = 0

    def add(self, other: Usage) -> None:
        """Add up. Spelt out, as each append does it."""
        self.calls += other.calls
        self.requests += other.requests
        self.retries += other.retries
        self.conflicts += other.conflicts
        self.read_units += other.read_units
        self.write_units += other.write_units
        self.bytes_written += other.bytes_written
        self.bytes_read += other.bytes_read
