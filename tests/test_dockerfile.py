"""The Dockerfile: linted; and replayed step by step in an overlay of this machine, as no base image can be had here."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from dist_condense.data import ffcv_extra
from tests.conftest import ROOT, absent
from tests.dockerfile import command, lineage, script, stages

TEXT = (ROOT / "Dockerfile").read_text()
STAGES = stages(TEXT)
TARGETS = ("cpu", "gpu")


def hadolint(text: str) -> str:
    lint = [Path(sys.executable).with_name("hadolint"), "--failure-threshold", "style", "--no-color", "-"]
    return subprocess.run(lint, input=text, capture_output=True, text=True).stdout


def test_hadolint_has_nothing_to_say() -> None:
    assert hadolint(TEXT) == ""
    assert "DL3006" in hadolint(TEXT.replace("python:3.11.14-slim-bookworm", "python"))


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_is_pinned_unprivileged_and_watched(target: str) -> None:
    steps = [step for stage in lineage(STAGES, target) for step in stage.steps]
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-bookworm", STAGES["base"].base)
    (user,) = [argument for word, argument in steps if word == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)  # a number: Kubernetes cannot see that a name is not root
    after = [word for word, _ in steps[steps.index(("USER", user)) :]]
    assert after == ["USER", "HEALTHCHECK", "CMD"]
    installs = [argument for word, argument in steps if word == "RUN" and "pip install" in argument]
    assert all("--constraint /src/constraints.txt" in install for install in installs)


def test_the_extras_and_system_packages_are_those_of_the_project() -> None:
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    (build, _), install = STAGES["ffcv"].all("RUN"), STAGES["gpu"].all("RUN")[-1]
    assert set(re.search(r"/src\[(.*?)\]", install).group(1).split(",")) == extras - {"dev"}
    wanted = set(ffcv_extra.SYSTEM.split()) - {"python3-dev"}  # the base brings its own headers
    assert {package for package in wanted if "-dev" in package or package == "g++"} <= set(build.split())


def context(folder: Path) -> Path:
    """What `docker build` would send: the files that git tracks or would, less those of .dockerignore."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    for name in listed.stdout.splitlines():
        if not ignored(name, rules):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name, follow_symlinks=False)
    return folder


def ignored(name: str, rules: list[str]) -> bool:
    """By the last rule that fits the file or a folder that it is in."""
    places = [name, *map(str, Path(name).parents)][:-1]
    told = False
    for rule in rules:
        if any(fnmatch.fnmatch(place, rule.lstrip("!").removeprefix("**/")) for place in places):
            told = not rule.startswith("!")
    return told


def test_the_context_is_the_package(tmp_path: Path) -> None:
    sent = {path.relative_to(tmp_path).parts[0] for path in context(tmp_path).iterdir()}
    assert sent == {"LICENSE", "README.md", "configs", "constraints.txt", "dist_condense", "pyproject.toml"}
    assert ignored("k8s/README.md", ["*", "!README.md"]) and not ignored("README.md", ["*", "!README.md"])


REPLAY = """
set -eu
mkdir {work}/up {work}/work {work}/root
mount -t overlay overlay -o lowerdir=/,upperdir={work}/up,workdir={work}/work {work}/root
ROOT={work}/root
for place in proc dev sys; do mount --rbind /$place $ROOT/$place; done
inside() {{ chroot $ROOT env -u PYTHONPATH "PATH={bin}:$PATH" "$@"; }}
taken=$(inside getent passwd 1000 | cut -d: -f1)  # by a user of this machine, whom the base does not have
[ -z "$taken" ] || inside userdel --force "$taken" 2> /dev/null
{readable}
{steps}
as_user {healthcheck} > /dev/null && as_user {cmd} > /dev/null
as_user 'test $(id -u) = 1000 && touch /output/mine && ! touch /src/mine 2> /dev/null'
as_user 'python -c "import dist_condense as d; print(d.__file__)"; dist-condense run configs/digits.yaml --cfg'
"""


@pytest.mark.slow
def test_the_steps_build_an_image_that_works(tmp_path: Path) -> None:
    """In an overlay of this machine, whose Python stands for the base's: what is there is not installed again."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        absent("replaying the Dockerfile needs root, apt-get and overlay mounts")
    (work := tmp_path / "work").mkdir()
    (sent := tmp_path / "context").mkdir()
    context(sent)
    parents = [str(path) for path in (*Path(sys.base_prefix).parents, *ROOT.parents)]
    steps = [*script(STAGES, "ffcv", sent), *script(STAGES, "gpu", sent)]
    text = REPLAY.format(
        work=work,
        bin=Path(sys.executable).parent,
        readable="".join(f'chmod o+x "$ROOT{path}"\n' for path in parents),
        steps="\n".join(dict.fromkeys(steps)),  # the base once
        healthcheck=_quoted(STAGES["gpu"].all("HEALTHCHECK")[0]),
        cmd=_quoted(STAGES["gpu"].all("CMD")[0]),
    )
    replayed = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", text]
    done = subprocess.run(replayed, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert list((work / "up" / "wheels").glob("ffcv-*.whl"))
    assert "/site-packages/dist_condense/__init__.py" in done.stdout and "\n  name: digits\n" in done.stdout


def _quoted(argument: str) -> str:
    return f"'{command(argument)}'"
