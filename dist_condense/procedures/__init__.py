"""What a run can do from start to end, each a file; `settings.procedures` makes them of a config."""

NAMES = {"matching": "learn images by matching statistics", "selecting": "choose real images"}
