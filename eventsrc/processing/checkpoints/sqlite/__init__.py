"""The durable state of processors in an SQLite file."""
