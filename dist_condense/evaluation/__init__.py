"""Training networks from scratch on a set and testing them: protocols, trials, a sweep over a cluster.

`evaluate` runs in this process; only `sweep` knows Ray, and it is not imported from here.
"""
