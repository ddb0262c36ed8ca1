"""What users declare: aggregates and their events, and how these become bytes. Pure: no I/O, no await."""
