"""What the library survives: campaigns of faults, each checked against one history. `make faults` runs them all."""
