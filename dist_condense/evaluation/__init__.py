"""Evaluation of a set by the test accuracy of networks trained on it from scratch: protocols, trials and a sweep.

`evaluate` runs the trials in this process, `sweep` on a cluster; only `sweep`, not imported here, imports Ray.
"""
