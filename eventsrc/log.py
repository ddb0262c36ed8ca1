"""The library's logger. Messages never contain payloads."""

import logging

log = logging.getLogger("eventsrc")
log.addHandler(logging.NullHandler())
