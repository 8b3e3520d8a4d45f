"""Doors: every reader of content from outside, against valid files that are mutated at random."""
