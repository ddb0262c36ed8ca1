"""The durable state of processors in a DynamoDB table."""
