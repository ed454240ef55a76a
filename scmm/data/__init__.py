"""Data sets, captions and batches."""
