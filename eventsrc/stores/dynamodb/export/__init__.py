"""Reading exports of a table to S3 as a feed."""
