"""The store on Amazon DynamoDB, and the exports of its tables."""
