"""Requests to the service and its responses: clients, signatures, HTTP, and what a response proves."""
