"""Exchange with the Hub, other projects and other runtimes."""
