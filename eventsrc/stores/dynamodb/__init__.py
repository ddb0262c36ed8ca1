"""The store on Amazon DynamoDB, and what its tables tell."""

from .export.export import Export
from .store import DynamoDBStore

__all__ = ["DynamoDBStore", "Export"]
