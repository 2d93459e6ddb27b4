"""Images packed into shards."""
