"""YAML of users: whatever a config file, a group file or an override contains, it is read or refused in clear lines."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st

from dist_condense.settings import config, interpolations, yaml_files
from dist_condense.settings.config import ConfigError, load
from dist_condense.settings.keys import KEYS, SECTIONS
from dist_condense.settings.values import Unusable
from dist_condense.settings.yaml_files import DEFAULTS
from dist_condense.system.records import YAML_BYTES, YAML_VALUES
from dist_condense.system.terminal import lines_of
from tests.doors.fuzzing import SNIPPETS, TEXTS, Answer, check_lines, door, fuzz, mutated_yaml, odd_values

SHIPPED = [yaml.safe_load((config.shipped() / f"{name}.yaml").read_text()) for name in ("digits", "imagenet100_idc")]
GROUP = yaml.safe_load((config.shipped() / "method" / "idc.yaml").read_text())
RESOLVED = config.to_dict(config.RunConfig())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("configs")
    (made / "method").mkdir()
    (made / "own.yaml").write_text("defaults: [{method: mine}]\nipc: 2\n")
    return made


@fuzz(st.sampled_from(SHIPPED).flatmap(mutated_yaml), examples=60, seconds=5)
def test_a_config_file_is_composed_or_refused(folder: Path, content: bytes) -> None:
    (folder / "c.yaml").write_bytes(content)
    with door(ConfigError):
        config.to_yaml(load(str(folder / "c.yaml")))


@fuzz(mutated_yaml(GROUP), examples=40, seconds=3)
def test_so_is_the_file_of_a_group(folder: Path, content: bytes) -> None:
    (folder / "method" / "mine.yaml").write_bytes(content)
    with door(ConfigError):
        load(str(folder / "own.yaml"))


@fuzz(mutated_yaml(RESOLVED), examples=40, seconds=4)
def test_the_config_of_a_run_is_read_or_refused_in_one_line(folder: Path, content: bytes) -> None:
    file = folder / "config.yaml"
    file.write_bytes(content)
    with door(ConfigError):
        config.read(file)
    with door(Unusable) as answer:
        yaml_files.stored_values(file)
    assert answer.is_accepted or answer.lines[0].startswith(str(file))


_KEYS = st.sampled_from([*KEYS, *SECTIONS, "", ".", "a.b", "ipc.x", "hydra", "defaults", "${ipc}", "method..start"])
_VALUES = st.one_of(
    st.sampled_from(
        [*SNIPPETS, *TEXTS, "[" * 5_000, "{a: " * 2_000, "${a" * 3_000, "dc,dsa", "'a", '"a', "[a, b", "1"]
    ),
    odd_values.map(lambda value: yaml.safe_dump(value, default_flow_style=True, width=10**6).strip()),
    st.text(max_size=20),
)
_OVERRIDES = st.one_of(
    st.tuples(st.sampled_from(["", "+", "++", "~", " "]), _KEYS, st.just("="), _VALUES).map("".join),
    st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")),
)


@fuzz(st.lists(_OVERRIDES, min_size=1, max_size=3), examples=60, seconds=5)
def test_an_override_is_taken_or_refused(overrides: list[str]) -> None:
    with door(ConfigError):
        load("configs/digits.yaml", overrides)


# --- kinds of faults -----------------------------------------------------------------------------------------------


def answer_to(folder: Path, text: str, *overrides: str) -> Answer:
    (folder / "c.yaml").write_text(text)
    with door(ConfigError) as answer:
        load(str(folder / "c.yaml"), overrides)
    return answer


def chain(width: int, length: int, form: str = "{}") -> str:
    """Return values that refer to one another, each ``width`` times to the one before it."""
    values = [f"a{n}: {form.format(f'${{a{n - 1}}}' * width)!r}" for n in range(1, length)]
    return "\n".join([*values, "a0: xx", f"output: ${{a{length - 1}}}"])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (chain(2, 18), ": its ${...} expand to more than 65536 characters"),
        (chain(1, 40), "refers to a value, which refers to another, and so on, more than 20 times"),
        ("output: '" + "${ipc}" * 20_000 + "'", "a text with ${ has at most 4096 characters"),
        ("output: '" + "${" * 2_000 + "'", "is no interpolation"),
        ("output: '" + "${oc.env:A," * 300 + "}" * 300 + "'", "its ${...} are nested too deep"),
        ("ipc: ${${seed}}", "the name in an interpolation is computed by another; write it out"),
        ("ipc: ${oc.select:${seed}}", "the name in an interpolation is computed by another; write it out"),
        ("ipc: ${oc.select:a${seed},1}", "the name in an interpolation is computed by another; write it out"),
        ("ipc: ${oc.select:'a,${seed}',1}", "the name in an interpolation is computed by another; write it out"),
        ("ipc: ${oc.select:a\\,${seed},1}", "the name in an interpolation is computed by another; write it out"),
        ("ipc: ${seed}\nseed: ${ipc}", "ipc: Recursive interpolation detected"),
        ("output: ${method}\ndefaults: [{method: dc}]", "output: {"),
        ("ipc: !!bool maybe", "ipc: 'maybe' does not fit"),
        ("ipc: !!timestamp 2026-13-41", "line 1: the tag '!!timestamp' is not read"),
        ('output: "\\UFFFFFFFF"', "line 1: an escape or a version beyond all numbers"),
        ('output: "a\\0b"', "output: 'a\\x00b' has a zero byte"),
        ("ipc: {}", "ipc: {} does not fit; expected int"),
        ("ipc: {a: {b: 1}}", "ipc: {'a': {'b': '1'}} does not fit; expected int"),
        ("method: {start: noise}\nmethod.start: real", "the key 'method.start' is here a second time"),
        ("defaults: [{method: {a: b}}]", "line 1: defaults is a list"),
        ("defaults: ['']", "line 1: defaults is a list"),
        ("defaults: [" + "{method: dc}, " * (DEFAULTS + 1) + "]", f"defaults has more than {DEFAULTS} entries"),
        ("defaults: [" + "x" * 5_000 + "]", "a file of its defaults cannot be read: File name too long"),
        ("defaults: [./c]", "refer to themselves, or include more than"),
        ("a: [" + "a, " * YAML_VALUES + "]", f"line 1: more than {YAML_VALUES} values"),
        ("a: [" + "a, " * ((YAML_BYTES - 10) // 3) + "]", f"line 1: more than {YAML_VALUES} values"),
        ("".join(f"k{n}: 1\n" for n in range(YAML_VALUES // 2 - 1)), "more unknown keys"),
        ("# " + "x" * YAML_BYTES, "bytes, expected at most"),
    ],
    ids=range(28),
)
def test_what_would_take_long_or_means_nothing_is_refused(text: str, line: str, folder: Path) -> None:
    answer = answer_to(folder, text)
    assert any(line in refusal for refusal in answer.lines or ()), answer


def test_files_that_include_each_other_many_times_are_refused(folder: Path) -> None:
    """Each of ten files is included twice by the one before it: 1,024 times in all."""
    for first, second in itertools.pairwise("abcdefghijk"):
        (folder / f"{first}.yaml").write_text(f"defaults: [{second}@x, {second}@y]\n")
    (folder / "k.yaml").write_text("ipc: 1\n")
    answer = answer_to(folder, "defaults: [a]")
    assert answer.lines is not None and "include more than" in answer.lines[0]


@pytest.mark.parametrize(("count", "is_read"), [(DEFAULTS, True), (DEFAULTS + 1, False)])
@pytest.mark.parametrize("own", ["", "_self_, "])
def test_the_files_of_a_config_are_counted_however_they_are_included(
    count: int, is_read: bool, own: str, tmp_path: Path
) -> None:
    for number in range(count):
        (tmp_path / f"f{number}.yaml").write_text(f"seed: {number}\n")
    files = [f"f{number}" for number in range(count)]
    assert answer_to(tmp_path, f"defaults: [{own}{', '.join(files)}]\n{own and 'ipc: 1'}").is_accepted == is_read
    (tmp_path / "f0.yaml").write_text(f"defaults: [{own}{', '.join(files[1:])}]\n")
    assert answer_to(tmp_path, "defaults: [f0]").is_accepted == is_read


def test_references_that_are_few_are_resolved(folder: Path) -> None:
    (folder / "c.yaml").write_text(
        "ipc: 3\noutput: 'o/${.tracking.experiment}'\n"
        "tracking: {experiment: 'x${ipc}_${ipc}', checkpoints: '${output}/c'}\n"
        "dataset: {classes: ['${ipc}', '${.0}b', '${oc.select:seed,seven}'], root: '${oc.env:NONE,${..output}}'}\n"
    )
    made = load(str(folder / "c.yaml"))
    assert (made.output, made.tracking.checkpoints) == ("o/x3_3", "o/x3_3/c")
    assert (made.dataset.classes, made.dataset.root) == (["3", "3b", "seven"], "o/x3_3")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${oc.select:ipc,${seed}}", "3"),
        ("${oc.select:none,${seed}}", "7"),
        ("${oc.select: none , '${seed}, ${ipc}'}", "7, 3"),
        ("${oc.select:none,${oc.select:nothing,${seed}}}", "7"),
        ("${oc.env:DIST_CONDENSE_NONE,${seed}}", "7"),
        ("${oc.env:DIST_CONDENSE_NONE,b}", "b"),
        ("${oc.decode:${oc.env:DIST_CONDENSE_NONE,b}}", "b"),
    ],
)
def test_a_default_may_be_another_reference(text: str, value: str, folder: Path) -> None:
    (folder / "c.yaml").write_text(f'ipc: 3\nseed: 7\noutput: "{text}"\n')
    assert load(str(folder / "c.yaml")).output == value


@pytest.mark.parametrize("text", ["x" * 500_000, "'" * 500_000, "\\" * 500_000 + "x", "[" * 500_000])
@pytest.mark.parametrize("key", ["method", "method.grouping.groups", "ipc"])
def test_a_long_override_is_refused_at_once(key: str, text: str) -> None:
    with door(ConfigError) as answer:
        load("configs/digits.yaml", [f"{key}={text}"])
    assert answer.lines is not None and answer.lines[0].startswith(f"{key}: "), answer


def test_backslashes_of_a_run_are_read_in_linear_time(folder: Path) -> None:
    run = "\\" * 400_000
    (folder / "config.yaml").write_text(f"output: '{run}'\nseed: '\\\\\\${{a}}'\n")
    with door():
        assert yaml_files.stored_values(folder / "config.yaml")["seed"] == "\\${a}"


def test_a_group_may_be_left_out_and_names_of_many_classes_are_read(folder: Path) -> None:
    names = [f"n{number:08}" for number in range(21_841)]  # ImageNet-21k
    (folder / "c.yaml").write_text(f"defaults: [{{method: null}}]\ndataset: {{classes: [{', '.join(names)}]}}\n")
    with door():
        assert load(str(folder / "c.yaml")).dataset.classes == names


@pytest.mark.parametrize("place", ["folder", "pipe", "device", "socket"])
def test_a_config_is_a_regular_file(place: str, folder: Path, tmp_path: Path) -> None:
    made: dict[str, Any] = {
        "folder": lambda path: path.mkdir(),
        "pipe": os.mkfifo,
        "device": lambda path: path.symlink_to("/dev/zero"),
        "socket": lambda path: path.symlink_to("/dev/null"),
    }
    made[place](tmp_path / "c.yaml")
    with door(ConfigError) as answer:
        load(str(tmp_path / "c.yaml"))
    assert answer.lines is not None and "is not a file" in answer.lines[0]


def test_a_bound_counts_what_a_reference_reaches() -> None:
    values = {
        "a": "x" * 100,
        "s.b": "${a}${a}",
        "s.c": "1",
        "d": "${s}",
        "e": ["${d}", "y"],
        "f": "${e[0]}",
        "g": "${g}",
    }
    size = interpolations._Size(values)
    assert size.of("s.b") == 8 + 200
    assert size.of("d") == 4 + 9 + 208 and size.of("e") == 4 + size.plain["d"] + size.of("d")
    assert size.of("f") == 7 + size.plain["e"] + size.of("e") and size.of("g") == 4 + 4


def test_many_and_long_lines_are_cut() -> None:
    error = ConfigError([f"key{n}: {'x' * 10**6} does not fit" for n in range(1_000)])
    lines = lines_of(error)
    check_lines(lines)
    assert lines[0].startswith("key0: xxx") and lines[0].endswith("xxx does not fit") and " ... " in lines[0]
    assert lines[-1] == "... and 951 more problems"
    assert lines_of(ConfigError(["a\nb"])) == ["a\\nb"]
