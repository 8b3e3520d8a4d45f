"""A soft label per image is learnt with its pixels and reaches state, set, card, preview, load_set and evaluation.

Shards (1, 2 and 3 workers) and resumption are shown by the case `soft_labels` of tests/engine/cases.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dist_condense import load_set, run
from dist_condense.core.start import SURE, scores
from dist_condense.data import open_dataset
from dist_condense.data.normalise import ChannelStatistics
from dist_condense.evaluation.evaluate import Evaluation, TrainingSet, Trial, run_trial
from dist_condense.evaluation.protocols import protocol
from dist_condense.evaluation.rows import read_csv
from dist_condense.job import checkpoint
from dist_condense.job.exporting import set_problem
from dist_condense.result.card import SyntheticSetError, read_card
from dist_condense.result.synthetic_set import TENSORS, write_set
from dist_condense.settings import checks
from dist_condense.system.storage import Folder
from tests.engine import cases

OWN = ("cluster.workers=0", "evaluation.epochs=2", "evaluation.seeds=1", "evaluation.sets=[condensed]")


def condensed(folder: Path, *more: str) -> int:
    given = (*cases.TINY, *cases.CASES["soft_labels"], *OWN, f"output={folder}", *more)
    keys = {pair.split("=", 1)[0]: pair for pair in (*given, "tracking.uri=http://127.0.0.1:9")}
    return run.main(["configs/digits.yaml", *keys.values()])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("soft") / "run"
    assert condensed(folder) == 0
    return folder


def test_the_set_has_the_labels_as_they_were_learnt(folder: Path) -> None:
    state = cases.classes(checkpoint.newest(Folder(folder / "checkpoints")))
    learnt = torch.cat([state[f"labels.{c}"] for c in range(10)]).softmax(1)
    start = torch.cat([scores(c, 2, 10) for c in range(10)]).softmax(1)
    torch.testing.assert_close(start.diagonal()[:1], torch.tensor([SURE]))
    assert (learnt - start).abs().amax(1).min() > 1e-4, "a label did not move"
    dataset = load_set(folder)
    assert dataset.card.labels == "soft" and torch.equal(dataset.labels, learnt)
    assert dataset.targets == [c for c in range(10) for _ in range(2)]
    image, label = dataset[3]
    assert torch.equal(label, learnt[3]) and image.shape == (1, 8, 8)
    assert (folder / "synthetic_set" / "preview.png").exists()


def test_evaluation_trains_on_them(folder: Path) -> None:
    """With CutMix, a network learns the next class if each label is that of the next class."""
    (row,) = read_csv(folder / "evaluation.csv")
    assert row.set == "condensed" and 0 <= row.top1_last <= 100
    dataset, digits = load_set(folder), open_dataset("digits", None, size=8)
    images = dataset.batch(torch.arange(len(dataset)))
    evaluation = Evaluation(
        sets={str(by): TrainingSet(images, dataset.labels.roll(by, 1), epochs=200) for by in (0, 1)},
        test=digits.test(),
        statistics=ChannelStatistics(digits.mean, digits.std),
        classes=10,
        protocol="idc",
        flip=False,
    )
    own, other = (run_trial(Trial(name, "convnet:width=16:depth=2", 0), evaluation) for name in evaluation.sets)
    assert own.top1_last > other.top1_last + 20


def test_the_epochs_of_a_protocol_follow_the_images_of_a_class(folder: Path) -> None:
    labels = load_set(folder).labels
    hard = torch.arange(10).repeat_interleave(2)
    for name in ("idc_imagenet", "dc", "idc"):
        assert protocol(name).epochs_for(labels) == protocol(name).epochs_for(hard)


def test_the_snippet_of_the_card_decodes_soft_labels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / "synthetic_set")
    lines = "\n".join(read_card(Path()).how_to_load["by_hand"])
    scope: dict[str, Any] = {"read": lambda path: Path(path).read_text()}
    exec(lines.replace("json.load(open(", "json.loads(read("), scope)  # a closed file
    assert torch.equal(scope["y"], load_set(folder).labels)


def test_tiles_share_the_label_of_their_image(folder: Path, tmp_path: Path) -> None:
    """Each image has four tiles, stored as all first tiles, then all second ones."""
    pixels, labels = load_set(folder).pixels(), load_set(folder).labels
    write_set(tmp_path / "s", pixels, labels, replace(read_card(folder / "synthetic_set"), factor=2))
    assert torch.equal(load_set(tmp_path / "s").labels, labels.repeat(4, 1))


def test_labels_of_another_shape_are_refused(folder: Path, tmp_path: Path) -> None:
    pixels, labels = load_set(folder).pixels(), load_set(folder).labels
    card = read_card(folder / "synthetic_set")
    with pytest.raises(SyntheticSetError, match=r"'labels': found float32 \[20, 9\], the card says float32 \[20, 10\]"):
        write_set(tmp_path / "s", pixels, labels[:, :9], card)
    assert load_file(folder / "synthetic_set" / "synthetic_set.safetensors")["labels"].shape == (20, 10)


def test_a_set_that_was_damaged_is_written_again_from_the_checkpoint(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = folder / "synthetic_set"
    whole, rows = (files / TENSORS).read_bytes(), (folder / "evaluation.csv").read_bytes()
    (files / TENSORS).write_bytes(whole[:-1] + b"x")
    assert condensed(folder) == 0
    assert "note: the set is written again from the checkpoint: " in capfd.readouterr().err
    assert (files / TENSORS).read_bytes() == whole and len(load_set(folder)) == 20
    assert (folder / "evaluation.csv").read_bytes() == rows


def test_the_set_of_another_run_is_not_taken_for_this_ones(folder: Path, tmp_path: Path) -> None:
    config = replace(cases.load("soft_labels"), output=str(tmp_path))
    digits = open_dataset("digits", None, size=8)
    assert "card.json is missing" in str(set_problem(config, digits))
    pixels, labels = load_set(folder).pixels(), load_set(folder).labels
    card = read_card(folder / "synthetic_set")
    write_set(tmp_path / "synthetic_set", pixels, labels, card)
    assert set_problem(config, digits) is None
    write_set(tmp_path / "synthetic_set", pixels, labels, replace(card, complete=False))
    assert "is incomplete" in str(set_problem(config, digits))
    other = replace(card, channels=3, mean=(0.1,) * 3, std=(0.1,) * 3)
    write_set(tmp_path / "synthetic_set", pixels.repeat(1, 3, 1, 1), labels, other)
    assert "has 10 classes of 2, 2, 2, 2, 2 and 5 more images, 3 x 8 x 8, the run has" in str(
        set_problem(config, digits)
    )


def test_a_run_with_hard_labels_does_not_continue_as_one_with_soft_ones(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert condensed(folder, "method.label_lr=null") != 0
    assert "method.label_lr: 0.1 there, None now" in capfd.readouterr().err


def test_labels_are_not_learnt_from_a_statistic_without_them() -> None:
    run = cases.load("soft_labels", "method.statistic.name=embedding")
    (problem,) = checks.of_config(run)
    assert problem.startswith("method.label_lr: 0.1, but method.statistic.name=embedding does not depend on the labels")
