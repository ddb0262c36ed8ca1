"""Projections: handlers and their read models."""
