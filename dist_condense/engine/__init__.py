"""Execution of a run: class shards, their communication, and the worker group that runs them."""
