"""Reuse of similar answers: embeddings, a partitioned index, guards, and a decision with a bounded error."""
