"""The feed of a table: a scan of its items, and its stream."""
