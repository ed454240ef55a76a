"""Embedding, searching and the retrieval metrics."""
