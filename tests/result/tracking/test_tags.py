from __future__ import annotations

import json
from pathlib import Path

import pytest

from dist_condense.result.tracking.tags import Data, data_of, tags_of

CONFIG = "{seed: 3, method: {name: dm}, dataset: {name: digits}, ipc: 10, cluster: {workers: 8, device: cuda}}"
H100 = "NVIDIA H100 80GB HBM3, 81559 MiB, 570.1"


def folder_with(folder: Path, config: str, **environment: object) -> Path:
    (folder / "config.yaml").write_text(config)
    if environment:
        (folder / "environment.json").write_text(json.dumps(environment))
    return folder


def test_tags_say_what_was_condensed_where_and_by_whom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "ada")
    commit = "0123456789abcdef"
    tags = tags_of(folder_with(tmp_path, CONFIG, cpu="AMD EPYC", cpus=2, devices=[H100] * 2, commit=commit))
    _, _, *facts = tags.pop("mlflow.note.content").splitlines()
    assert facts == ["- method: dm", "- data set: digits", "- images per class: 10", "- seed: 3"]
    assert tags == {
        "method": "dm",
        "dataset": "digits",
        "ipc": "10",
        "seed": "3",
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
    assert tags_of(folder_with(tmp_path, "seed: 3\n")) == {"seed": "3", "mlflow.source.name": "dist-condense"}


def test_a_description_has_no_markup_of_a_stranger(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "{method: {name: '[x](http://y)\\n# <b>'}, dataset: {name: digits}}")
    line = tags_of(folder)["mlflow.note.content"].splitlines()[2]
    assert line == r"- method: \[x\](http\://y)\\n# \<b\>"


def test_the_data_have_the_hash_of_the_images_and_no_password(tmp_path: Path) -> None:
    config = "dataset: {name: imagenet, root: 'https://me:pw@host/data'}"
    assert data_of(folder_with(tmp_path, config)) is None
    found = data_of(folder_with(tmp_path, config, data="0123abc"))
    assert found is not None and (found.name, found.digest) == ("imagenet", "0123abc") and "pw" not in found.source
    assert data_of(folder_with(tmp_path, CONFIG, data="0123abc")) == Data("digits", "0123abc", "digits")
