"""Each documented run has an output of its own, so that the documents' commands can be executed one after the other."""

import re
import shlex
from pathlib import Path

import pytest

from dist_condense.commands import arguments
from dist_condense.settings.config import differences, identity, load

PLACE = Path(__file__).parents[2]
PROGRAM = r"(?:dist-condense (?:run|check)|-m dist_condense\.run|launch/\w+\.sh(?: --installed)?)"
COMMAND = re.compile(rf"{PROGRAM} +(configs/\w+\.yaml[^`#\n]*)")
"""A command that starts or checks a run of a shipped config; its group has the arguments, on one line."""
VARIABLE = re.compile(r"[$%]")
"""The mark of a variable of the shell, or of Slurm, in an output."""
HELP = "--help"


def commands() -> dict[str, list[tuple[str, list[str]]]]:
    """Return the config and the words after it of each documented command, by document."""
    files = [PLACE / "README.md", *sorted((PLACE / "docs").glob("*.md"))]
    texts = {str(file.relative_to(PLACE)): file.read_text() for file in files}
    texts[HELP] = "\n".join(f"dist-condense {name} {x}" for name, xs in arguments.EXAMPLES.items() for x in xs)
    return {
        document: [
            (config, words) for found in COMMAND.findall(joined(text)) for config, *words in [shlex.split(found)]
        ]
        for document, text in texts.items()
    }


def joined(text: str) -> str:
    """Return a text with the lines of each command on one line."""
    return re.sub(r"\\\n\s*", " ", text)


def output_of(words: list[str]) -> str | None:
    return next((word.removeprefix("output=") for word in words if word.startswith("output=")), None)


def lacks_output(config: str, words: list[str]) -> bool:
    """Return whether a command makes another set than its config, or several, in the output of its config."""
    options = arguments.run_parser().parse_intermixed_args([config, *words])
    if output_of(words):
        return False
    return options.multirun or bool(differences(identity(load(config)), identity(load(config, options.overrides))))


DOCUMENTED = [(document, *command) for document, found in commands().items() for command in found]


@pytest.mark.parametrize(("document", "config", "words"), DOCUMENTED)
def test_a_command_that_makes_another_set_names_its_output(document, config, words):
    assert not lacks_output(config, words)


def test_a_command_without_its_output_is_found():
    document = "`dist-condense check configs/digits.yaml seed=1` and\n"
    document += "    python -m dist_condense.run configs/digits.yaml \\\n  -m"
    found = [shlex.split(arguments) for arguments in COMMAND.findall(joined(document))]
    assert [lacks_output(config, words) for config, *words in found] == [True, True]
    assert not lacks_output("configs/digits.yaml", ["evaluation.seeds=1"])
    assert {document for document, *_ in DOCUMENTED} > {"README.md", "docs/data.md", HELP}


def test_no_two_documented_commands_make_different_sets_in_one_output():
    sets = {}
    for document, config, words in DOCUMENTED:
        if (output := output_of(words)) and not VARIABLE.search(output) and "-m" not in words:
            sets.setdefault(output, []).append((document, identity(load(config, words))))
    different = {
        output: [document for document, _ in found]
        for output, found in sets.items()
        if any(differences(made, found[0][1]) for _, made in found)
    }
    assert different == {}
