"""Exchange with the Hub: converted checkpoints and model cards."""
