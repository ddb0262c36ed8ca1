"""Checkpoints: where processors store their positions."""
