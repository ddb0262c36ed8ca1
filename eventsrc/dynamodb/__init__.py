"""The store on Amazon DynamoDB."""

from .store import DynamoDBStore

__all__ = ["DynamoDBStore"]
