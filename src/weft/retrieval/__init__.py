"""Exact and approximate search over aligned embeddings, and the metrics of retrieval."""
