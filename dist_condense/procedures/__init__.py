"""Procedures, one file each. A procedure is the complete computation of a run; `settings.procedures` builds it."""

NAMES = {"matching": "learn images by matching statistics", "selecting": "choose real images"}
