"""All commits of a table: its scan and its stream."""
