"""Folders of small runs, as a comparison reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dist_condense.evaluation.rows import Row, append_csv
from dist_condense.result.card import Card, CardClass
from dist_condense.result.synthetic_set import write_set
from dist_condense.settings import config


def folder_of_run(
    folder: Path,
    top1: Mapping[str, Sequence[float]],
    complete: bool = True,
    architecture: str = "mlp",
    steps: int = 3,
    digests: Mapping[str, str | None] | None = None,
    **keys: Any,
) -> Path:
    """Write the folder of a run.

    :param top1: top-1 of the networks by set; the networks' seeds are 0, 1, ...
    :param digests: hashes of the images by their name in environment.json; None: there is no such file.
    :param keys: keys of the config, with ``__`` for a dot.
    """
    values = {"output": str(folder), **{key.replace("__", "."): value for key, value in keys.items()}}
    own = config.from_dict(values)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config.to_yaml(own))
    card = Card(
        method=own.method.name, dataset="digits", classes=(CardClass(0, "zero"),), ipc=1, channels=1, size=8,
        value_space="normalised", mean=(0.0,), std=(1.0,), factor=1, seed=own.seed, steps=steps, complete=complete,
    )  # fmt: skip
    write_set(folder / "synthetic_set", torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64), card)
    common = {"protocol": own.evaluation.protocol, "architecture": architecture, "epochs": own.evaluation.epochs or 300}
    append_csv(
        folder / "evaluation.csv",
        (
            Row(set=name, seed=seed, top1_last=value, top1_best=None, **common)
            for name, values in top1.items()
            for seed, value in enumerate(values)
        ),
    )
    entries = [{"step": 1, "steps_per_second": 0.5}, {"step": 11, "steps_per_second": 2.0}]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    if digests is not None:
        (folder / "environment.json").write_text(json.dumps(digests))
    return folder
