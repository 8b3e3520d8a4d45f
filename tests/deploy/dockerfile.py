"""A parsed Dockerfile, and its steps as a shell script for machines without a builder or the base image."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Stage:
    """One stage of a Dockerfile: the instructions from a FROM to the next."""

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        """Return the arguments of every instruction `word`."""
        return [argument for given, argument in self.steps if given == word]


def stages(text: str) -> dict[str, Stage]:
    """Return the stages by name, in order, with continued lines joined."""
    parsed: dict[str, Stage] = {}
    plain = re.sub(r"(?m)^\s*#.*\n", "", text)
    for line in filter(None, re.sub(r"\\\n\s*", " ", plain).splitlines()):
        word, argument = line.split(None, 1)
        if word == "FROM":
            base, _, name = argument.split()
            parsed[name] = Stage(name, base)
        else:
            parsed[name].steps.append((word, argument))
    return parsed


def lineage(known: dict[str, Stage], name: str) -> list[Stage]:
    """Return a stage and the stages it is built on, base first."""
    stage = known[name]
    return [*(lineage(known, stage.base) if stage.base in known else []), stage]


def script(known: dict[str, Stage], target: str, context: Path) -> Iterator[str]:
    """Return a shell script that runs the steps in order in the folder $ROOT and defines `as_user` for later commands.

    Mounts from other stages are already in that folder, and no secret is passed.
    """
    home, environment = "/", []
    for stage in lineage(known, target):
        for word, argument in stage.steps:
            if word == "ENV":
                environment += shlex.split(argument)
            elif word == "WORKDIR":
                home = argument
                yield f'mkdir -p "$ROOT{home}"'
            elif word == "COPY":
                source, place = argument.split()
                whole = source == "."
                yield f'mkdir -p "$ROOT{place if whole else Path(place).parent}"'
                yield f'cp -r {context}/{"./." if whole else source} "$ROOT{place}"'
            elif word == "RUN":
                command = re.sub(r"--mount=\S+ ", "", argument)
                yield shlex.join(["inside", *environment, "sh", "-ec", f"cd {home} && {command}"])
            elif word == "USER":
                user = argument.split(":")[0]
                run = shlex.join(["inside", *environment, "setpriv", f"--reuid={user}", f"--regid={user}"])
                yield f'as_user() {{ {run} --clear-groups env HOME={home} sh -ec "cd {home} && $1"; }}'


def command(argument: str) -> str:
    """Parse the argument of CMD or HEALTHCHECK in the form of a list."""
    return shlex.join(json.loads(argument[argument.index("[") :]))
