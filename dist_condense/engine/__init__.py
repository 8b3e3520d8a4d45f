"""Class shards, their communication, and the worker group that runs them."""
