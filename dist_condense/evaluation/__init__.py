"""Training of networks from scratch on a set, and their test: protocols, trials, and a sweep over a cluster.

`evaluate` runs in this process; only `sweep` imports Ray, and it is not imported here.
"""
