"""Checkpoints from other projects, and what goes to the Hub."""
