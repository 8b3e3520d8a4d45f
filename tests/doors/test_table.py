"""The table of doors in docs/reliability.md names every test of the doors, and tests that exist."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
TABLE = (TESTS.parent / "docs" / "reliability.md").read_text().split("## Doors")[1].split("\n## ")[0]


def test_the_table_names_the_tests_that_exist() -> None:
    named = set(re.findall(r"`([a-z0-9_/]+/test_[a-z0-9_]+\.py)`", TABLE))
    assert len(named) > 25 and [name for name in sorted(named) if not (TESTS / name).is_file()] == []
    own = {f"doors/{file.name}" for file in Path(__file__).parent.glob("test_*.py")}
    assert own - named == {"doors/test_fuzzing.py", "doors/test_table.py"}
