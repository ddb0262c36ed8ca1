"""The command line: `eventsrc`, or `python -m eventsrc`.

`eventsrc --app shop.main:app trace request-9` knows a program's stores, classes and processors from its
`eventsrc.inspection.App`.
"""
