"""Sinks: services of AWS to which events are sent as CloudEvents."""
