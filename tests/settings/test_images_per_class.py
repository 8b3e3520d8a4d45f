"""``ipc`` is a number, or numbers by class; what leaves a class without one is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from dist_condense.data.image_set import ClassName
from dist_condense.settings import checks, images_per_class
from dist_condense.settings.config import ConfigError, from_dict, load, read, to_yaml
from dist_condense.settings.identity import differences, identity

CRANES = (ClassName("crane", "n02012849"), ClassName("crane", "n03126707"), ClassName("oak", "n12267677"))
PLAIN = (ClassName("oak"), ClassName("elm"), ClassName("0"))


def numbers(text: str, classes: tuple[ClassName, ...] = PLAIN) -> tuple[int, ...]:
    return images_per_class.numbers(load("configs/digits.yaml", [f"ipc={text}"]), SimpleNamespace(classes=classes))


def problems(text: str, classes: tuple[ClassName, ...] = PLAIN) -> list[str]:
    config = load("configs/digits.yaml", [f"ipc={text}"])
    return list(images_per_class.problems(config, SimpleNamespace(classes=classes)))


@pytest.mark.parametrize(("text", "expected"), [
    ("3", (3, 3, 3)),
    ("{oak: 20, elm: 5, 0: 1}", (20, 5, 1)),
    ('{"0": 7, "*": 2}', (2, 2, 7)),
    ("{'*': 2}", (2, 2, 2)),
])  # fmt: skip
def test_numbers_are_given_for_all_classes_or_by_name(text: str, expected: tuple[int, ...]) -> None:
    assert numbers(text) == expected and not problems(text)


def test_a_wordnet_id_names_one_of_several_classes_with_one_name() -> None:
    assert numbers("{n02012849: 4, n03126707: 5, oak: 6}", CRANES) == (4, 5, 6)
    assert numbers('{n12267677: 1, "*": 2}', CRANES) == (2, 2, 1)
    [line] = problems('{crane: 4, "*": 2}', CRANES)
    assert line == "ipc: crane is the name of several classes; give their WordNet ids"
    [line] = problems('{oak: 4, n12267677: 4, "*": 2}', CRANES)
    assert line == "ipc: oak and n12267677 are one class; give one of them"


@pytest.mark.parametrize(("text", "line"), [
    ("{oak: 20}", 'ipc: no number for elm, 0; give each class one, or "*": N for all others'),
    ('{oak: 1, elm: 2, "0": 3, "*": 9}', 'ipc: "*" stands for no class, because all are named; leave it out'),
    ('{oka: 20, "*": 3}', "ipc: digits has no class 'oka'; did you mean oak?"),
])  # fmt: skip
def test_each_class_needs_one_number(text: str, line: str) -> None:
    assert problems(text) == [line]


@pytest.mark.parametrize(("text", "words"), [
    ("{oak: many}", "does not fit; expected int or {NAME: int}"),
    ("{}", "does not fit"),
    ("{oak: 2.5}", "does not fit"),
    ("{oak: {elm: 2}}", "does not fit"),
    ("{oak: null}", "does not fit"),
    ("[2, 3]", "does not fit"),
    ("{'\\${x}': 2}", "a name with ${ is not stored in a config; rename the class"),
    ("{oak: 2", "cannot be read"),
])  # fmt: skip
def test_what_is_no_number_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load("configs/digits.yaml", [f"ipc={text}"])
    assert words in str(refused.value) and str(refused.value).startswith("ipc: ")


def test_the_range_holds_for_each_number() -> None:
    config, lines = checks.screened(load("configs/digits.yaml", ["ipc={oak: 0, elm: 3, ash: -1}"]))
    assert lines == ["ipc: 'oak': 0 is not in the range 1 to 100000 (and 1 more)"] and config.ipc == 1


def test_a_stored_config_keeps_names_that_yaml_would_read_otherwise(tmp_path: Path) -> None:
    known = {"null": 1, "0": 2, "true": 3, "a: b": 4, "*": 5, "ä $x": 6, "1e3": 7, "x.y": 8}
    config = from_dict({"ipc": known})
    (tmp_path / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    assert read(tmp_path / "config.yaml").ipc == load(str(tmp_path / "config.yaml")).ipc == known


def test_a_file_gives_them_as_well_and_the_command_line_replaces_them(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text('defaults: [{recipe: dm}]\nipc: {oak: 20, "*": 5}\n')
    assert load(str(file)).ipc == {"oak": 20, "*": 5}
    assert load(str(file), ["ipc={elm: 1}"]).ipc == {"elm": 1} and load(str(file), ["ipc=3"]).ipc == 3


def test_numbers_are_part_of_the_identity() -> None:
    before, now = (
        identity(load("configs/digits.yaml", [f"ipc={x}"])) for x in ('{oak: 1, "*": 2}', '{"*": 2, oak: 1}')
    )
    assert not differences(before, now)
    assert any(line.startswith("ipc: ") for line in differences(before, {**now, "ipc": {"oak": 2, "*": 2}}))
