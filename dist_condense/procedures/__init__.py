"""Procedures, one file each: computations of a run from start to end. `settings.procedures` builds them."""

NAMES = {"matching": "learn images by matching statistics", "selecting": "choose real images"}
