"""The library's logger. It never shows payloads."""

import logging

log = logging.getLogger("eventsrc")
log.addHandler(logging.NullHandler())
