"""Token ids on disk: made in parallel, stored in shards, memory-mapped."""
