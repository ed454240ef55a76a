"""Pictures and figures of what a model does."""
