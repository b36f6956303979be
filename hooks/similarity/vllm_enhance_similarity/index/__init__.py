"""Vector indexes: exact, HNSW, one that grows from the first into the second, and hard partitions over it."""
