"""Evaluation of sets by training networks on them from scratch and testing these: protocols, trials and a sweep.

`evaluate` runs the trials in this process, `sweep` on a cluster; only `sweep`, not imported here, imports Ray.
"""
