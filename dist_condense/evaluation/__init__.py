"""Evaluation of a set, on which networks are trained from scratch and then tested: protocols, trials and a sweep.

`evaluate` runs the trials in this process, `sweep` on a cluster; only `sweep`, not imported here, imports Ray.
"""
