"""Comparison of runs: their folders, the groups of equal settings, and the table and the page of the groups."""
