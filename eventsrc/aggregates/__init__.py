"""Aggregates, their events, and the encoding of events as bytes. Pure: no I/O, no await."""
