"""Load, fold, save and execute commands on aggregates."""
