"""The Dockerfile, linted, and replayed step by step in an overlay of this machine, since no base image is available."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from dist_condense.data.ffcv import extra
from tests.conftest import ROOT, absent
from tests.deploy.dockerfile import command, lineage, script, stages

TEXT = (ROOT / "Dockerfile").read_text()
STAGES = stages(TEXT)
TARGETS = ("cpu", "gpu")
RULES = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
PLANTED = (".env", "id_rsa", "pip.conf", "configs/.env", "configs/.a.yaml", "configs/method/a.pem", "data/a.tar")
PLANTED += ("dist_condense/.env", "dist_condense/key.pem", "dist_condense/core/id_rsa", "dist_condense/core/.git/a.py")


def hadolint(text: str) -> str:
    lint = [Path(sys.executable).with_name("hadolint"), "--failure-threshold", "style", "--no-color", "-"]
    return subprocess.run(lint, input=text, capture_output=True, text=True).stdout


def test_hadolint_has_nothing_to_say() -> None:
    assert hadolint(TEXT) == ""
    assert "DL3006" in hadolint(re.sub(r"python:\S+", "python", TEXT))


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_is_unprivileged_and_watched(target: str) -> None:
    steps = [step for stage in lineage(STAGES, target) for step in stage.steps]
    (user,) = [argument for word, argument in steps if word == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)  # a number: Kubernetes cannot see that a name is not root
    after = [word for word, _ in steps[steps.index(("USER", user)) :]]
    assert after == ["USER", "HEALTHCHECK", "CMD"]


SECRET = "--mount=type=secret,id=pip,target=/etc/pip.conf,required=false "


def faults(text: str) -> list[str]:
    """Return the faults of a Dockerfile that a reviewer would refuse."""
    known = stages(text)
    everything = [step for stage in known.values() for step in stage.steps]
    base = dict(item.split("=", 1) for line in known["base"].all("ENV") for item in line.split())
    constrained = all(base.get(name) == "/etc/constraints.txt" for name in ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"))
    copied = [line for target in TARGETS for stage in lineage(known, target) for line in stage.all("COPY")]
    pips = [
        argument for word, argument in everything if word == "RUN" and re.search(r"\bpip (install|wheel)\b", argument)
    ]
    outer = {stage.base for stage in known.values()} - set(known)
    faults = {
        "a base without a digest": any(not re.fullmatch(r"\S+:[\w.-]+@sha256:[0-9a-f]{64}", each) for each in outer),
        "pip without constraints": not constrained or "constraints.txt /etc/constraints.txt" not in copied,
        "an index in the history": any(
            word == "ARG" or re.search(r"(?i)index|://|pip\.conf /", argument) for word, argument in everything
        ),
        "an index that pip does not get": not all(SECRET in line for line in pips),
        "the checkout in a layer": set(copied) != {"constraints.txt /etc/constraints.txt"},
        "build tools": any("apt-get" in line for stage in lineage(known, "cpu") for line in stage.all("RUN")),
        "programs that change the user": not any("-perm /6000" in line for line in known["base"].all("RUN")),
    }
    return [fault for fault, present in faults.items() if present]


def test_the_images_are_as_a_reviewer_wants_them() -> None:
    assert faults(TEXT) == []


def test_the_database_of_kubernetes_has_a_digest_too() -> None:
    assert re.search(r"image: postgres:\d+\.\d+-bookworm@sha256:[0-9a-f]{64}\n", (ROOT / POSTGRES).read_text())


POSTGRES = "k8s/base/postgres.yaml"


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        (r"@sha256:\w+", "", "a base without a digest"),
        (r"base AS cpu", "debian:12 AS cpu", "a base without a digest"),
        (r"PIP_BUILD_CONSTRAINT", "BUILD_CONSTRAINT", "pip without constraints"),
        (r"base AS ffcv", r"base AS ffcv\nARG PIP_EXTRA_INDEX_URL", "an index in the history"),
        (r"pip install --find-links", "pip install --extra-index-url $I --find-links", "an index in the history"),
        (r"base AS ffcv", r"base AS ffcv\nCOPY pip.conf /etc/pip.conf", "an index in the history"),
        (r"(?m)^USER", r"RUN pip install more\nUSER", "an index that pip does not get"),
        (r"base AS cpu", r"base AS cpu\nCOPY . /src", "the checkout in a layer"),
        (r"base AS cpu", r"base AS cpu\nRUN apt-get install gcc", "build tools"),
        (r"&& find .*", "&& true", "programs that change the user"),
    ],
)
def test_what_a_reviewer_would_refuse_is_noticed(old: str, new: str, what: str) -> None:
    assert what in faults(re.sub(old, new, TEXT))


def test_the_extras_and_system_packages_are_those_of_the_project() -> None:
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    (build, _), install = STAGES["ffcv"].all("RUN"), STAGES["gpu"].all("RUN")[-1]
    assert set(re.search(r"whl\)\[(.*?)\]", install).group(1).split(",")) == extras - {"dev"}
    packages = set(extra.SYSTEM.split()) - {"python3-dev"}  # the base brings its own headers
    assert {package for package in packages if "-dev" in package or package == "g++"} <= set(build.split())


def context(folder: Path) -> Path:
    """Return the files that `docker build` would send: all except those of .gitignore and .dockerignore."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    for name in listed.stdout.splitlines():
        if not ignored(name, RULES):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name, follow_symlinks=False)
    return folder


def ignored(name: str, rules: list[str]) -> bool:
    """Apply the last rule that matches the file or one of its folders; `*` stays in a folder, `**/` is any depth."""
    places = [name, *map(str, Path(name).parents)][:-1]
    result = False
    for rule in rules:
        pattern = re.sub(r"\\\*\\\*/|\\\*", lambda match: GLOBS[match[0]], re.escape(rule.lstrip("!")))
        if any(re.fullmatch(pattern, place) for place in places):
            result = not rule.startswith("!")
    return result


GLOBS = {r"\*\*/": "(?:.*/)?", r"\*": "[^/]*"}


def test_the_context_is_the_package(tmp_path: Path) -> None:
    sent = {path.relative_to(tmp_path).parts[0] for path in context(tmp_path).iterdir()}
    assert sent == {"LICENSE", "README.md", "configs", "constraints.txt", "dist_condense", "pyproject.toml"}
    assert ignored("k8s/README.md", ["*", "!README.md"]) and not ignored("README.md", ["*", "!README.md"])
    assert ignored("a/b/.c", ["**/.*"]) and ignored(".c", ["**/.*"]) and not ignored("a/b", ["b", "*.b", "a/*/b"])


def test_files_of_the_package_that_are_no_code_are_in_the_image_and_in_a_wheel(tmp_path: Path) -> None:
    package = ROOT / "dist_condense"
    data = {path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert package / "result" / "report_page.html" in data
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert data <= {path for pattern in patterns["dist_condense"] for path in package.glob(pattern)}
    sent = context(tmp_path)
    assert [path for path in data if not (sent / path.relative_to(ROOT)).is_file()] == []


@pytest.mark.parametrize("name", PLANTED)
def test_what_lies_in_a_checkout_is_not_in_the_context(name: str) -> None:
    assert ignored(name, RULES)


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
inside pip uninstall --yes --quiet dist-condense  # this machine's
{steps}
as_user {healthcheck} > /dev/null && as_user {cmd} > /dev/null
as_user 'test $(id -u) = 1000 && touch /output/mine'
as_user '! touch "$(python -c "import dist_condense as d; print(d.__path__[0])")/mine" 2> /dev/null'
as_user 'pip config list | grep constraint'
test -z "$(find $ROOT/usr -xdev -type f -perm /6000)"
as_user 'python -c "import dist_condense as d; print(d.__file__)"; dist-condense run configs/digits.yaml --cfg'
"""


@pytest.mark.slow
def test_the_steps_build_an_image_that_works(tmp_path: Path) -> None:
    """This machine's Python replaces that of the base image, so installed packages are not installed again."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        absent("replaying the Dockerfile needs root, apt-get and overlay mounts")
    (work := tmp_path / "work").mkdir()
    (sent := tmp_path / "context").mkdir()
    context(sent)
    parents = [str(path) for path in (*Path(sys.base_prefix).parents, *ROOT.parents)]
    steps = [line for stage in ("package", "ffcv", "gpu") for line in script(STAGES, stage, sent)]
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
    assert list((work / "up" / "ffcv").glob("ffcv-*.whl"))
    assert "/site-packages/dist_condense/__init__.py" in done.stdout and "\n  name: digits\n" in done.stdout


def _quoted(argument: str) -> str:
    return f"'{command(argument)}'"
