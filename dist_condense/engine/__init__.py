"""Class shards, what they say to each other, and the worker group that runs them."""
