"""The store on Amazon DynamoDB, and the exports of its tables."""

from .export.export import Export
from .store import DynamoDBStore

__all__ = ["DynamoDBStore", "Export"]
