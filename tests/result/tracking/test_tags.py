from __future__ import annotations

import json
from pathlib import Path

import pytest

from dist_condense.result.tracking.tags import tags_of

CONFIG = "{method: {name: dm}, dataset: {name: digits}, ipc: 10, cluster: {workers: 8, device: cuda}}"
H100 = "NVIDIA H100 80GB HBM3, 81559 MiB, 570.1"


def folder_with(folder: Path, config: str, **environment: object) -> Path:
    (folder / "config.yaml").write_text(config)
    if environment:
        (folder / "environment.json").write_text(json.dumps(environment))
    return folder


def test_tags_say_what_was_condensed_where_and_by_whom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "ada")
    commit = "0123456789abcdef"
    assert tags_of(folder_with(tmp_path, CONFIG, cpu="AMD EPYC", cpus=2, devices=[H100] * 2, commit=commit)) == {
        "method": "dm",
        "dataset": "digits",
        "ipc": "10",
        "workers": "8",
        "device": "cuda",
        "host": "2 x NVIDIA H100 80GB HBM3",
        "commit": "0123456789ab",
        "mlflow.source.name": "dist-condense",
        "mlflow.source.git.commit": commit,
        "mlflow.user": "ada",
    }


def test_a_machine_without_gpus_is_known_by_its_cpu(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, CONFIG, cpu="AMD EPYC", cpus=2, devices=[], commit=None)
    tags = tags_of(folder)
    assert tags["host"] == "2 x AMD EPYC"
    assert not {"commit", "mlflow.source.git.commit"} & set(tags)


def test_what_is_not_known_has_no_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("USER", raising=False)
    assert tags_of(folder_with(tmp_path, "seed: 3\n")) == {"mlflow.source.name": "dist-condense"}
