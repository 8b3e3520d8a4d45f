"""Every file of launch/, without a cluster: shell scripts with fake programs, cloud files by Ray's own schema."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.strangers import planted

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
VALUES = {
    "aws": {
        "AWS_REGION": "us-west-2",
        "AWS_ZONE": "us-west-2a",
        "AWS_SUBNET": "subnet-0",
        "AWS_GROUP": "sg-0",
        "AWS_HEAD_PROFILE_ARN": "arn:aws:iam::0:instance-profile/ray",
        "AWS_IMAGE": "ami-0",
    },
    "gcp": {
        "GCP_PROJECT": "ours",
        "GCP_REGION": "us-central1",
        "GCP_ZONE": "us-central1-a",
        "GCP_HEAD_ACCOUNT": "head@ours.iam.gserviceaccount.com",
        "GCP_SUBNET": "projects/p/regions/r/subnetworks/s",
        "GCP_IMAGE": "projects/p/global/images/i",
    },
}
MACHINES = {"GPU_NODES": "8", "GPU_TYPE": "a-type", "SHARED": "10.0.0.2:/export"}
clouds = pytest.mark.parametrize("cloud", VALUES)
scripts = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)


def sh(*words: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY", "SLURM"))}
    return subprocess.run(words, cwd=ROOT, env={**kept, **more}, capture_output=True, text=True, timeout=60)


# --- scripts --------------------------------------------------------------------------------------------------------


@scripts
def test_a_script_answers_and_refuses(script: Path) -> None:
    helped, refused = sh(script, "--help"), sh(script)
    assert helped.returncode == 0 and f"launch/{script.name}" in helped.stdout and not helped.stderr
    assert "shellcheck" not in helped.stdout
    assert refused.returncode == 2, refused.stderr


@pytest.mark.parametrize("words", [("local.sh", "digits.yaml"), ("mlflow.sh", "folder")], ids=lambda words: words[0])
def test_a_script_imports_nothing_from_the_current_folder(words: tuple[str, ...], tmp_path: Path) -> None:
    """The script's Python, replaced here, imports modules that are planted in the folder; see test_launch_runs.py."""
    mark, python = planted(tmp_path / "other"), tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho >>{tmp_path}/called\nexec {sys.executable} -c 'import random, json, socket'\n")
    python.chmod(0o755)
    own = {**os.environ, "PYTHON": str(python), "POSTGRES_BIN": "/nowhere"}
    command = [ROOT / "launch" / words[0], *words[1:]]
    subprocess.run(command, cwd=tmp_path / "other", env=own, capture_output=True, timeout=60)
    assert (tmp_path / "called").exists() and not mark.exists(), mark.read_text()


def test_no_script_writes_python_from_what_it_is_given() -> None:
    texts = "".join(script.read_text() for script in SCRIPTS)
    written = re.findall(r"""(?:-c |=)("[^"]*\bimport\b[^"]*"|'[^']*\bimport\b[^']*')""", texts)
    assert len(written) == 3 and not [text for text in written if text[0] == '"' and "$" in text], written


@pytest.mark.parametrize("file", sorted((ROOT / "launch").iterdir()), ids=lambda path: path.name)
def test_nothing_ends_every_ray_of_a_machine(file: Path) -> None:
    assert not re.search(r"\bray\W+stop\b|pkill|killall", file.read_text())


def test_slurm_sh_is_for_slurm() -> None:
    done = sh("launch/slurm.sh", "configs/digits.yaml")
    assert done.returncode == 1 and "this is not a Slurm job: sbatch --nodes=N launch/slurm.sh" in done.stderr


FAKES = {
    "srun": """
        echo "$*" >"$RECORD/srun"
        [[ " $* " == *" --export=ALL "* ]] || unset RAY_AUTH_MODE RAY_AUTH_TOKEN  # as after sbatch --export=NONE
        while [[ $1 != bash ]]; do shift; done
        exec "$@"
    """,
    "ray": """
        echo "${RAY_AUTH_TOKEN:-$(cat "$RAY_AUTH_TOKEN_PATH")}" >"$RECORD/token"
        [[ -z ${SLURM_STATE:-} ]] || stat -c %a "$SLURM_STATE" "$RAY_TMPDIR" >"$RECORD/modes"
        [[ -z ${RAY_TMPDIR:-} ]] || rmdir "$RAY_TMPDIR"
        while [[ $1 != -- ]]; do shift; done
        [[ ! -e $RECORD/code ]] || exec "${@:2}"
    """,
    "python": 'echo "$PYTHONSAFEPATH" >"$RECORD/safe"; exit "$(<"$RECORD/code")"',
}
"""Programs that launch/slurm.sh runs; `ray` records its input, and runs the command if there is an exit code for it."""


def slurm_job(folder: Path, code: int | None) -> subprocess.CompletedProcess[str]:
    (folder / "record").mkdir()
    if code is not None:
        (folder / "record" / "code").write_text(str(code))
    (folder / "bin").mkdir()
    for name, text in FAKES.items():
        (folder / "bin" / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / "bin" / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1", "SLURM_CPUS_ON_NODE": "1", "HEAD_IP": "10.0.0.2"}
    own = {"PYTHON": f"{folder}/bin/python", "RECORD": f"{folder}/record", "TMPDIR": f"{folder}/tmp"}
    (folder / "tmp").mkdir()
    return sh("launch/slurm.sh", "configs/digits.yaml", DIST_CONDENSE_OUTPUT=f"{folder}/outputs", **job, **own)


def test_slurm_sh_takes_nothing_that_others_planted(tmp_path: Path) -> None:
    """The job's folder of earlier versions has a link as token, the exit code of a success and a foreign pid."""
    state, other = tmp_path / "outputs" / "slurm-7", tmp_path / "other"
    state.mkdir(parents=True)
    state.chmod(0o777)
    other.touch()
    (state / "token").symlink_to(other)
    (state / "exit").write_text("0")
    (state / "pid").write_text("1")
    done = slurm_job(tmp_path, 3)
    assert done.returncode == 3, done.stderr
    assert other.read_text() == "" and len((tmp_path / "record" / "token").read_text()) == 65
    assert (tmp_path / "record" / "modes").read_text() == "700\n700\n"
    assert (tmp_path / "record" / "safe").read_text() == "1\n"
    assert os.listdir(state.parent) == ["slurm-7"] and (state / "exit").read_text() == "0"
    assert os.listdir(tmp_path / "tmp") == []


def test_slurm_sh_hands_its_token_to_all_nodes(tmp_path: Path) -> None:
    """Also after `sbatch --export=NONE`, which srun inherits without its own option; Ray would have no token."""
    done = slurm_job(tmp_path, 0)
    assert done.returncode == 0, done.stderr
    words = (tmp_path / "record" / "srun").read_text().split(" bash ")[0].split()
    assert "--export=ALL" in words and len((tmp_path / "record" / "token").read_text()) == 65


def test_slurm_sh_fails_when_no_run_left_a_code(tmp_path: Path) -> None:
    done = slurm_job(tmp_path, None)
    assert done.returncode == 1 and "Ray did not start" in done.stderr


@pytest.mark.parametrize("given", ["MLFLOW_TRACKING_URI", "IMAGENET_ROOT", "tracking.uri"])
@pytest.mark.parametrize("secret", ["https://u:s3cr3t@host", "https://s3cr3t@host/x", "http://host/?token=s3cr3t"])
def test_submit_sh_hands_no_password_to_a_command_line(given: str, secret: str, tmp_path: Path) -> None:
    words, environment = ([f"{given}={secret}"], {}) if "." in given else ([], {given: secret})
    done = sh("launch/submit.sh", "configs/digits.yaml", *words, RAY="false", **environment)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"submit.sh: {given} may contain a password") and "s3cr3t" not in done.stderr
    assert "no job API answers" in sh("launch/submit.sh", "x", RAY="false", MLFLOW_TRACKING_URI="http://m:5000").stderr


def test_mlflow_sh_refuses_a_folder_that_others_can_write(tmp_path: Path) -> None:
    (shared := tmp_path / "shared").mkdir()
    shared.chmod(0o777)
    (shared / "lock").symlink_to(tmp_path / "mine")
    (tmp_path / "mine").write_text("kept")
    done = sh("launch/mlflow.sh", shared)
    assert done.returncode == 2 and f"other users can put files into {shared}" in done.stderr
    assert (tmp_path / "mine").read_text() == "kept"


# --- ray job submit -------------------------------------------------------------------------------------------------


def uploaded(folder: Path, target: Path) -> set[str]:
    """Unpack in `target` the files that Ray uploads from `folder`, without .gitignore, and return their names."""
    from ray._private.runtime_env.packaging import create_package

    package = target.with_suffix(".zip")
    create_package(str(folder), package, include_gitignore=False, excludes=[], logger=logging.getLogger())
    with zipfile.ZipFile(package) as packed:
        packed.extractall(target)
        return {name for name in packed.namelist() if not name.endswith("/")}


def tracked(*patterns: str) -> set[str]:
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(listed.stdout.split())


def test_an_upload_is_the_package_and_runs(tmp_path: Path) -> None:
    """.rayignore names every folder of the package; Ray follows the link dist_condense/configs."""
    configs = tracked("configs/*.yaml")
    package = tracked("dist_condense") - {"dist_condense/configs"}
    expected = package | configs | {f"dist_condense/{name}" for name in configs} | {"pyproject.toml"}
    assert expected <= uploaded(ROOT, tmp_path / "it")
    main = "runpy.run_module('dist_condense.run', run_name='__main__')"
    script = f"import dist_condense, runpy; print(dist_condense.__file__); {main}"
    command = [sys.executable, "-c", script, "configs/digits.yaml", "--cfg"]
    done = subprocess.run(command, cwd=tmp_path / "it", env={"PATH": ""}, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith(f"{tmp_path}/it/dist_condense/__init__.py\n") and "  name: digits\n" in done.stdout, (
        done.stderr
    )


def test_no_other_file_is_uploaded(tmp_path: Path) -> None:
    (folder := tmp_path / "checkout").mkdir()
    shutil.copy(ROOT / ".rayignore", folder)
    kept = {"configs/mine.yaml", "configs/method/mine.yaml", "dist_condense/run.py", "dist_condense/core/a.py"}
    for name in (*kept, *PLANTED):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("secret")
    assert uploaded(folder, tmp_path / "it") == kept


TRACKED = ("LICENSE", "README.md", "configs/digits.yaml", "constraints.txt", "dist_condense/run.py", "pyproject.toml")
PLANTED = (
    ".env",
    "id_rsa",
    "secrets.env",
    "look.ipynb",
    "data/a.tar",
    ".aws/credentials",
    "configs/.env",
    "configs/.secret.yaml",
    "configs/a.pem",
    "configs/method/id_rsa",
    "configs/private/a.yaml",
    "dist_condense/.env",
    "dist_condense/id_rsa",
    "dist_condense/core/.env",
    "dist_condense/core/key.pem",
    "dist_condense/.ssh/id_rsa",
    "dist_condense/data/set/a.py",
    "outputs/aws.yaml",
)
"""Private files that may be in a checkout."""


# --- ray up ---------------------------------------------------------------------------------------------------------


RAY = """#!/bin/sh
[ "$1" = up ] || { mkdir -p ~/.ray && echo token >> ~/.ray/auth_token; }
echo "$@"
"""
"""A `ray` that prints its arguments and appends to an existing token."""


def up(cloud: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run launch/up.sh of a clone in `folder`, which is also HOME."""
    shutil.copytree(ROOT / "launch", folder / "launch", dirs_exist_ok=True)
    for name in TRACKED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    if not (link := folder / "dist_condense" / "configs").is_symlink():
        link.symlink_to("../configs")
    (ray := folder / "ray").write_text(RAY)
    ray.chmod(0o755)
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    subprocess.run(["git", "-C", folder, "add", *TRACKED, "dist_condense/configs"], check=True)
    asked = {**VALUES[cloud], **MACHINES, "HOME": str(folder), "RAY": str(ray), **more}
    return sh(folder / "launch" / "up.sh", cloud, "--yes", **asked)


def filled(cloud: str, folder: Path) -> dict[str, Any]:
    """Return the config that `ray up` receives."""
    done = up(cloud, folder)
    assert done.stdout == f"up outputs/{cloud}.yaml --yes\n", done.stderr
    return yaml.safe_load((folder / "outputs" / f"{cloud}.yaml").read_text())


@pytest.fixture(params=VALUES)
def config(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    return filled(request.param, tmp_path)


@clouds
def test_what_is_missing_is_named(cloud: str, tmp_path: Path) -> None:
    done = up(cloud, tmp_path, GPU_NODES="", SHARED="x; rm -rf /")
    assert done.returncode == 2
    assert done.stderr == f"up.sh: set GPU_NODES SHARED; the comments at the top of launch/{cloud}.yaml describe them\n"


@clouds
def test_what_git_does_not_track_is_not_uploaded(cloud: str, tmp_path: Path) -> None:
    for name in (*PLANTED, "outputs/upload/old.env"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("secret")
    folder = tmp_path / filled(cloud, tmp_path)["file_mounts"]["/home/ray/dist_condense"]
    sent = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}
    assert sent == {*TRACKED, "dist_condense/configs"}
    assert (folder / "dist_condense" / "configs" / "digits.yaml").exists()


def test_without_a_clone_nothing_is_uploaded(tmp_path: Path) -> None:
    done = up("aws", tmp_path, GIT_DIR=str(tmp_path / "none"))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.endswith("could not be copied to outputs/upload: run this in a clone\n")


def test_what_it_writes_is_readable_by_nobody_else(tmp_path: Path) -> None:
    """Also an older token and an older filled file, which were readable."""
    for before in (tmp_path / ".ray" / "auth_token", tmp_path / "outputs" / "aws.yaml"):
        before.parent.mkdir()
        before.touch(mode=0o644)
    filled("aws", tmp_path)
    for path in (".ray/auth_token", "outputs/aws.yaml", "outputs/upload"):
        assert (tmp_path / path).stat().st_mode & 0o077 == 0, path


def check(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config completed with Ray's defaults; fail if it is invalid.

    Ray's schema leaves only the provider open.
    """
    from ray.autoscaler._private.util import prepare_config, validate_config

    completed = prepare_config(config)
    validate_config(completed)
    unknown = set(config["provider"]) - {
        "type",
        "region",
        "availability_zone",
        "project_id",
        "use_internal_ips",
        "cache_stopped_nodes",
    }
    assert not unknown, f"unknown keys of the provider: {unknown}"
    return completed


def test_ray_takes_it(config: dict[str, Any]) -> None:
    assert check(config)["available_node_types"]["gpu"]["min_workers"] == 8


@pytest.mark.parametrize(
    "place", [(), ("provider",), ("auth",), ("docker",), ("available_node_types", "gpu")], ids="/".join
)
def test_a_typo_is_noticed(config: dict[str, Any], place: tuple[str, ...]) -> None:
    at = config
    for key in place:
        at = at[key]
    at["use_internal_ip"] = True
    with pytest.raises(Exception, match="use_internal_ip"):
        check(config)


def open_to_others(config: dict[str, Any]) -> list[str]:
    """Return what the completed config opens to others; Ray's defaults open the dashboard and SSH."""
    nodes = [kind["node_config"] for kind in config["available_node_types"].values()]
    start = " ".join(config["head_start_ray_commands"])
    token = "--env=RAY_AUTH_MODE=token" in config["docker"].get("run_options", [])
    faults = {
        "public addresses": not config["provider"].get("use_internal_ips"),
        "SSH not through a tunnel": "ssh_proxy_command" not in config["auth"],
        "an interface of Ray's choice": not all(map(CLOSED[config["provider"]["type"]], nodes)),
        "the dashboard": "--dashboard-host=127.0.0.1" not in start or "0.0.0.0" in str(config),
        "no token": not token or "/home/ray/.ray/auth_token" not in config["file_mounts"],
    }
    return [fault for fault, present in faults.items() if present]


CLOSED: dict[str, Callable[[dict[str, Any]], bool]] = {
    "aws": lambda node: bool(node.get("SecurityGroupIds")) and "NetworkInterfaces" not in node,
    "gcp": lambda node: [sorted(each) for each in node.get("networkInterfaces", [])] == [["subnetwork"]],
}
"""Whether a machine has the given network interface, and no public address."""


def test_nothing_is_open(config: dict[str, Any]) -> None:
    assert open_to_others(check(config)) == []


@pytest.mark.parametrize(
    ("cloud", "keys", "what"),
    [
        ("aws", "provider/use_internal_ips", "public addresses"),
        ("gcp", "auth/ssh_proxy_command", "SSH not through a tunnel"),
        ("aws", "available_node_types/gpu/node_config/SecurityGroupIds", "an interface of Ray's choice"),
        ("gcp", "available_node_types/head/node_config/networkInterfaces", "an interface of Ray's choice"),
        ("aws", "head_start_ray_commands", "the dashboard"),
        ("gcp", "docker/run_options", "no token"),
    ],
)
def test_what_is_open_is_noticed(tmp_path: Path, cloud: str, keys: str, what: str) -> None:
    config = filled(cloud, tmp_path)
    config["auth"].pop("ssh_proxy_use_node_id")  # Ray refuses it without ssh_proxy_command
    *path, last = keys.split("/")
    at = config
    for key in path:
        at = at[key]
    del at[last]
    assert open_to_others(check(config)) == [what]


# --- what a machine may do, and what it installs --------------------------------------------------------------------


RIGHTS = {"aws": "IamInstanceProfile", "gcp": "serviceAccounts"}
"""The field that gives a machine the rights of an account."""


def beyond_its_work(config: dict[str, Any]) -> list[str]:
    """Return the rights of machines in the completed config that exceed their work."""
    kinds = {name: kind["node_config"] for name, kind in config["available_node_types"].items()}
    right, head = RIGHTS[config["provider"]["type"]], config["head_node_type"]
    mounts = [line for line in config["initialization_commands"] if "mount -t" in line]
    faults = {
        "an account of a worker": any(right in node for name, node in kinds.items() if name != head),
        "an account of Ray's choice": right not in kinds[head],
        "scopes": any("cloud-platform" in str(node.get(right)) for node in kinds.values()),
        "metadata without a session": any(
            node.get("MetadataOptions") != {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}
            for node in kinds.values()
            if config["provider"]["type"] == "aws"
        ),
        "set-user-ID or devices from the share": not mounts or any("-o nosuid,nodev " not in line for line in mounts),
    }
    return [fault for fault, present in faults.items() if present]


def test_a_worker_has_no_account_and_the_head_its_own(config: dict[str, Any]) -> None:
    assert beyond_its_work(check(config)) == []


@pytest.mark.parametrize(
    ("cloud", "keys", "value", "what"),
    [
        ("aws", "available_node_types/gpu/node_config/IamInstanceProfile", {"Arn": "a"}, "an account of a worker"),
        ("gcp", "available_node_types/gpu/node_config/serviceAccounts", [{"email": "a"}], "an account of a worker"),
        ("aws", "available_node_types/head/node_config/IamInstanceProfile", None, "an account of Ray's choice"),
        ("gcp", "available_node_types/head/node_config/serviceAccounts", None, "an account of Ray's choice"),
        ("gcp", "available_node_types/head/node_config/serviceAccounts", ["x/cloud-platform"], "scopes"),
        ("aws", "available_node_types/gpu/node_config/MetadataOptions", {}, "metadata without a session"),
        ("aws", "initialization_commands", ["mount -t nfs4 a /b"], "set-user-ID or devices from the share"),
    ],
)
def test_an_account_too_many_is_noticed(tmp_path: Path, cloud: str, keys: str, value: Any, what: str) -> None:
    config = filled(cloud, tmp_path)
    *path, last = keys.split("/")
    at = config
    for key in path:
        at = at[key]
    at.pop(last, None) if value is None else at.update({last: value})
    assert beyond_its_work(check(config)) == [what]


def unpinned(config: dict[str, Any]) -> list[str]:
    """Return the calls of pip that may take an untested version; builds have their own environment and constraint."""
    commands = [line for key, lines in config.items() if key.endswith("commands") for line in lines]
    file = "/home/ray/dist_condense/constraints.txt"
    calls = [line for line in commands if re.search(r"\bpip\b", line) and f"pip install -q -c {file} " not in line]
    builds = {f"--env={name}={file}" for name in ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT")}
    return calls + sorted(builds - set(config["docker"]["run_options"]))


def test_pip_takes_the_tested_versions(config: dict[str, Any]) -> None:
    assert unpinned(config) == []
    known = re.findall(r"(?m)^([a-z0-9-]+)==", (ROOT / "constraints.txt").read_text())
    (head,) = config["head_setup_commands"]
    assert set(head.split("constraints.txt ")[1].split()) <= set(known)
    config["head_setup_commands"].append("pip install -q boto3")
    config["docker"]["run_options"].pop()
    file = "/home/ray/dist_condense/constraints.txt"
    assert unpinned(config) == ["pip install -q boto3", f"--env=PIP_BUILD_CONSTRAINT={file}"]


def test_its_ray_is_the_tested_one(config: dict[str, Any]) -> None:
    """The version is compared; a digest may follow."""
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    image, _, digest = config["docker"]["image"].partition("@sha256:")
    assert pinned and image == f"rayproject/ray:{pinned[1]}-py311-gpu" and re.fullmatch("|[0-9a-f]{64}", digest)
