"""Float images that are not square and have no upper bound are condensed in tiles along time only, to the preview."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from dist_condense.core.parameterisation import uniform
from dist_condense.data import DataError, open_dataset
from dist_condense.data.space import Space
from dist_condense.engine.coordinator import LocalCoordinator
from dist_condense.job import checkpoint, worker
from dist_condense.job.comparing import TRAINING_SETS
from dist_condense.job.exporting import card
from dist_condense.job.job import Job
from dist_condense.result.synthetic_set import SyntheticDataset, load_set
from dist_condense.settings import assembly, config
from dist_condense.settings.config import ConfigError
from dist_condense.system.storage import Folder
from tests import spectrograms
from tests.engine import cases

KEYS = [
    "method=idc",
    "dataset.name=spectrograms",
    "ipc=2",
    "network.width=8",
    "network.depth=2",
    "method.parameterisation={factor: 3, axes: width}",  # 40 columns are padded to 42
    "method.start=mixed",
    "method.real_batch=8",
    "method.grouping={name: pooled}",
    "method.images.lr=20",
    "training=real",
    "training.images=32",
    "training.batch=16",
    "trajectory={networks: 2, matching_steps: 3}",
    "evaluation={epochs: 4, seeds: 1, protocol: idc_speech, sets: [random, condensed, full]}",
    "tracking={checkpoint_steps: 2, checkpoints_kept: 5}",
    "cluster.workers=0",
]


def prepared(folder: Path, *more: str, how: str = "auto") -> Job:
    return Job.prepare(config.load("configs/digits.yaml", [f"output={folder}", *KEYS, *more]), how)


def condensed(job: Job) -> Tensor:
    """Execute a run, write its set, and return the pixels ``[classes, ipc, 1, 16, 40]``."""
    job._write_start()
    worker.work(
        job.config, LocalCoordinator(bool(job.config.compute.reproducible)), torch.device("cpu"), claim=job.claim
    )
    job._export()
    state = checkpoint_of(job)
    return torch.stack([state[f"pixels.{c}"] for c in range(len(spectrograms.NAMES))])


def checkpoint_of(job: Job) -> dict[str, Tensor]:
    """Return the state of the newest checkpoint by ``NAME.LABEL``."""
    found = checkpoint.newest(Folder(job.files.checkpoints))
    assert found is not None
    return cases.classes(found)


@pytest.fixture(scope="module", autouse=True)
def known():
    with pytest.MonkeyPatch.context() as patch:
        spectrograms.known(patch)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Tensor]:
    job = prepared(tmp_path_factory.mktemp("spectrograms") / "run")
    return job, condensed(job)


def space_of(job: Job) -> Space:
    return assembly.space_of(job.config, job.dataset)


def test_mean_and_std_are_those_of_all_values(run: tuple[Job, Tensor]) -> None:
    job, values = run[0], spectrograms.training_values().double()
    assert job.config.dataset.mean == pytest.approx([values.mean().item()], rel=1e-12)
    assert job.config.dataset.std == pytest.approx([values.std(correction=0).item()], rel=1e-12)
    assert job.config.dataset.mean[0] > 1


def no_features(label: int, positions: Tensor) -> Tensor:
    """Stand for features that no start from random images needs."""
    raise AssertionError


def test_pixels_are_learnt_from_tiles_of_real_images(run: tuple[Job, Tensor]) -> None:
    job, pixels = run
    assert pixels.shape == (3, 2, *spectrograms.SHAPE) and pixels.dtype == torch.float32
    start = assembly.start_pixels(job.config, job.dataset, job.dataset.train(), 1, no_features)
    values = spectrograms.training_values()[20:40]
    for tile in start[0].split(14, -1):  # a column of a tile is one of a real image
        assert any((tile[..., 0] == other[..., 0]).all() for other in values)
    assert (pixels[1] - start).abs().max() > 0.01
    assert pixels.max() > 10  # no upper bound


def test_clamped_at_the_lower_bound_alone(run: tuple[Job, Tensor]) -> None:
    space = space_of(run[0])
    assert space.clamp_(torch.tensor([-1.0, 0.5, 99.0])).tolist() == [0.0, 0.5, 99.0]
    noise = space.noise((4, *spectrograms.SHAPE), torch.Generator().manual_seed(1))
    assert noise.min() == 0 and noise.max() > space.statistics.mean[0] + space.statistics.std[0]


def test_a_run_that_goes_on_reaches_the_same_bits(run: tuple[Job, Tensor], tmp_path: Path) -> None:
    begun = run[0].folder / "checkpoints"
    first = sorted(path for path in begun.iterdir() if path.is_dir())[0]
    job = prepared(tmp_path / "other", how=str(first))
    assert job.start is not None and 0 < job.start.steps < 6
    assert torch.equal(condensed(job), run[1])


def loaded(job: Job) -> SyntheticDataset:
    return load_set(job.files.synthetic_set)


def test_the_card_says_all_and_the_set_is_what_training_saw(run: tuple[Job, Tensor]) -> None:
    job, pixels = run
    content = json.loads((job.folder / "synthetic_set" / "card.json").read_text())
    reported = {"format_version": 2, "value_space": "values", "bounds": [0.0, None], "padding": [0.0], "axes": "width"}
    assert {**content, **reported, "size": 16, "width": 40, "factor": 3, "images_per_class": 6} == content
    dataset, form = loaded(job), assembly.matching_recipe(job.config, job.dataset, ((0,), (1,), (2,))).parameterisation
    every = uniform(pixels.flatten(0, 1), form, 3)[0]
    seen = dataset.batch(torch.arange(len(dataset)))
    assert torch.equal(seen, job.dataset.space.statistics.normalise(every))
    assert torch.equal(dataset.pixels(), pixels.flatten(0, 1))
    found: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(job.folder / "synthetic_set")
        text = "\n".join(content["how_to_load"]["by_hand"]).replace("json.load(open(", "json.loads(read(")
        found["read"] = lambda path: Path(path).read_text()  # which closes the file
        exec(text, found)
    assert torch.equal(found["x"], seen) and torch.equal(found["y"], dataset.labels)


def test_networks_on_its_height_and_width_are_trained_and_tested(run: tuple[Job, Tensor]) -> None:
    rows = {row.set: row for row in run[0].comparison.rows()}
    assert set(rows) == {"random", "condensed", "full"}
    assert rows["full"].top1_last > 60 and rows["condensed"].top1_last > 60  # by chance 33


def test_selected_images_are_stored_values(tmp_path: Path) -> None:
    """Images selected by a trained network have exactly the values of the data set."""
    others = [key for key in KEYS if not key.startswith("method")]
    keys = [*others, "method=herding", "method.selection={epochs: 2, batch: 16}", f"output={tmp_path}"]
    job = Job.prepare(config.load("configs/digits.yaml", keys))
    pixels, values = condensed(job), spectrograms.training_values().unflatten(0, (3, 20))
    positions = checkpoint_of(job)
    for c, own in enumerate(values):
        assert torch.equal(pixels[c], own[positions[f"positions.{c}"]])
    dataset = load_set(job.files.synthetic_set)
    assert (dataset.card.value_space, dataset.card.bounds, dataset.card.factor) == ("values", (0.0, None), 1)
    seen = TRAINING_SETS["condensed"](job.comparison).batches(job.dataset.space.statistics, "cpu")
    assert torch.equal(seen(torch.arange(6)), job.dataset.space.statistics.normalise(pixels.flatten(0, 1)))


def test_the_preview_is_wide_and_shows_the_loud_rows(run: tuple[Job, Tensor]) -> None:
    with Image.open(run[0].folder / "synthetic_set" / "preview.png") as picture:
        assert picture.width > 1.5 * picture.height * 2 / 3
        grey = torch.frombuffer(bytearray(picture.convert("L").tobytes()), dtype=torch.uint8).view(*picture.size[::-1])
    top = grey[: picture.height // 3].float()  # the first class is loud in its upper rows
    assert top[: len(top) // 3].mean() > top[len(top) // 2 : -4].mean() + 20


def test_normalised_pixels_of_them_are_neither_bounded_nor_padded_by_another_value(tmp_path: Path) -> None:
    job = prepared(tmp_path / "dc", "method.unit_space=false", "method.start=noise")
    space = space_of(job)
    [mean], [std] = space.statistics.mean, space.statistics.std
    described = card(job.config, job.dataset, job.outline, 0)
    assert described.padding == pytest.approx([-mean / std]) and described.value_space == "normalised"
    assert described.bounds == (0.0, None)
    pixels = torch.full((1, 1, 1, 1), -9.0)
    assert space.clamp_(pixels) is pixels and pixels.item() == -9
    assert space.of(space.statistics.denormalise(pixels)).item() == pytest.approx(-9)


@pytest.mark.parametrize(
    ("more", "reported"),
    [
        (["dataset.size=8"], "spectrograms: its images are 16 x 40; leave dataset.size out"),
        (
            ["method.parameterisation.factor=41"],
            "method.parameterisation.factor: 41 is larger than the images' side, 40",
        ),
        (["method.parameterisation={factor: 17, axes: null}"], "factor: 17 is larger than the images' side, 16"),
        (
            ["method.parameterisation.axes=time"],
            "method.parameterisation.axes: 'time' is not one of both, height, width",
        ),
        (["network.depth=6"], "depth 6 halves images of side 20 (dataset.size 16) to nothing: set depth to 4"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, more: list[str], reported: str) -> None:
    with pytest.raises(ConfigError) as refused:
        prepared(tmp_path / "run", *more)
    assert any(reported in problem for problem in refused.value.problems), refused.value.problems


def test_floats_of_one_value_or_not_finite_are_not_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    odd = spectrograms.made(20, 1)
    odd.images[0, 0, 0, 0] = torch.inf
    monkeypatch.setattr(spectrograms, "made", lambda per_class, seed: odd)
    with pytest.raises(ConfigError, match=r"channel 0 .* has one value everywhere, or a value that is not finite"):
        prepared(tmp_path / "run")
    with pytest.raises(DataError, match=r"dataset\.channels is 2"):
        open_dataset("spectrograms", None, channels=2)
