"""docs/config.md agrees with the dataclasses of the schema, docs/names.md with the tables of names."""

import runpy
from pathlib import Path

from dist_condense.settings.keys import KEYS

MAKER = Path(__file__).parents[2] / "docs" / "make_config.py"


def test_the_page_of_names_is_what_its_script_makes():
    script = runpy.run_path(str(MAKER))
    assert script["names_page"]() == script["NAMES"].read_text(), "run python docs/make_config.py"


def test_the_page_is_what_its_script_makes():
    script = runpy.run_path(str(MAKER))
    made = script["page"]()
    assert made == script["PAGE"].read_text(), "run python docs/make_config.py"
    assert all(f"| `{key}` |" in made for key in KEYS)
