"""Failures of a run: the messages, and that nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from dist_condense import load_set, run
from dist_condense.commands import cli
from dist_condense.engine.coordinator import ProcessGroupCoordinator
from dist_condense.engine.finite import Finding, FiniteWatch, Quantity, all_finite
from dist_condense.engine.shard import ClassShard
from dist_condense.engine.trajectory import Trajectory
from dist_condense.job import checkpoint
from dist_condense.system.storage import Folder
from tests.engine import cases


def command(case: str, folder: Path, *more: str) -> int:
    """Execute the whole command in this process, without evaluation; the last override of a key is used."""
    given = ["cluster.workers=0", "evaluation.epochs=0", f"output={folder}"]
    overrides = {pair.split("=", 1)[0]: pair for pair in (*cases.TINY, *cases.CASES[case], *given, *more)}
    return run.main(["configs/digits.yaml", *overrides.values()])


# --- a run that fails ---------------------------------------------------------------------------------------------


OFTEN = ("tracking.log_every=1", "tracking.checkpoint_steps=1")
LARGE_PIXELS = (*OFTEN, "method.images.lr=1e30", "trajectory.networks=3", "trajectory.matching_steps=1")
"""The first update is huge and finite; what the second network makes of it is not."""


@pytest.mark.usefixtures("unlimited")
def test_not_finite(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert command("dc", tmp_path, *LARGE_PIXELS) == cli.FAILED
    reported = capfd.readouterr().err
    assert (
        "statistic or the matching loss is not finite: class 0 (0), network 2, matching step 1, rank 0. Lower"
        in reported
    )
    assert f"the set of matching step 1 is kept in {tmp_path / 'synthetic_set'}" in reported
    kept = checkpoint.newest(Folder(tmp_path / "checkpoints"))
    assert kept is not None and kept.steps == 1
    assert all(x.isfinite().all() for x in cases.classes(kept).values())
    found = load_set(tmp_path / "synthetic_set")
    assert len(found) == 20 and found.batch(torch.arange(20)).isfinite().all()
    assert not json.loads((tmp_path / "synthetic_set" / "card.json").read_text())["complete"]


@pytest.mark.usefixtures("unlimited")
def test_not_finite_before_the_first_checkpoint(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert command("dc", tmp_path, "method.images.lr=1e40") == cli.FAILED
    reported = capfd.readouterr().err
    assert (
        "the update of its pixels is not finite: class 0 (0), network 1, matching step 1, " in reported
        and "no set was finished before" in reported
    )
    assert not (tmp_path / "synthetic_set").exists() and checkpoint.newest(Folder(tmp_path / "checkpoints")) is None


@pytest.mark.parametrize(
    ("case", "since"),
    [
        ("dc", "the training after matching step 1: network 1, matching step 2, rank 0"),
        ("idc", "its start: network 1, matching step 1, rank 0"),
    ],
)
@pytest.mark.parametrize("log_every", [1, 3])
@pytest.mark.usefixtures("unlimited")
def test_theta_that_is_not_finite(
    case: str, since: str, log_every: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The same place is reported whether training or matching detects it, and nothing is stored."""
    keys = ("training.lr=1e30", f"tracking.log_every={log_every}")
    assert command(case, tmp_path, *keys) == cli.FAILED
    assert f"theta is not finite since {since}. Lower training.lr" in capfd.readouterr().err
    assert checkpoint.newest(Folder(tmp_path / "checkpoints")) is None


@pytest.mark.usefixtures("unlimited")
def test_a_run_goes_on_without_updates_that_are_not_finite(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert command("dc", tmp_path, *LARGE_PIXELS) == cli.FAILED
    stopped = checkpoint.newest(Folder(tmp_path / "checkpoints"))
    assert stopped is not None and stopped.steps == 1
    before = cases.classes(stopped)
    assert command("dc", tmp_path, *LARGE_PIXELS, "training.check_finite=false") == 0
    done = checkpoint.newest(Folder(tmp_path / "checkpoints"))
    assert done is not None and done.steps == 3
    assert all(torch.equal(x, before[name]) for name, x in cases.classes(done).items())
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
    assert command("dc", tmp_path, *LARGE_PIXELS) == 0, capfd.readouterr().err


class Spoiling(ProcessGroupCoordinator):
    """A coordinator that makes the pixels of class 7 huge on its owner before the third matching step."""

    def __init__(self) -> None:
        super().__init__()
        match = ClassShard.match

        def spoil(self: ClassShard, network: torch.nn.Module, k: int, t: int, visit: int) -> None:
            if visit == 2 and 7 in self.pixels:
                self.pixels[7].fill_(1e38)
            match(self, network, k, t, visit)

        ClassShard.match = spoil


def test_the_class_in_a_shared_group_and_its_worker_are_named(tmp_path: Path) -> None:
    """All classes of the group lose their gradient, but only one of them caused it."""
    warm = ("method.grouping.warmup_networks=0",)
    reported = cases.together(2, {"dcc": ("dcc", Spoiling)}, tmp_path, *warm)["dcc"]
    assert isinstance(reported, str)
    place = "the statistic of its images is not finite: class 7 (7), network 1, matching step 3, rank 1"
    assert place in reported and "the largest is 1e+38" in reported


def test_noting_does_not_wait_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, bad = FiniteWatch(torch.device("cpu")), torch.tensor(False)
    with monkeypatch.context() as patch:
        for name in ("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "cpu", "numpy"):
            patch.setattr(torch.Tensor, name, lambda *_: pytest.fail("waits"))
        for step, finite in enumerate((~bad, bad, ~bad, bad)):
            watch.note(Quantity.LOSS, [1, 3], torch.stack([~bad, finite]), step)
            watch.note(Quantity.UPDATE, [2], (~bad if step < 1 else finite)[None], step)
        finite = all_finite([torch.ones(3), torch.tensor([1, 2]), torch.tensor([1.0, torch.inf])])
    assert watch.first(4, [torch.tensor([-3.0, 2.0])]) == Finding(
        step=1, quantity=Quantity.LOSS, label=3, rank=4, largest=3.0
    )
    assert not finite


class Perturbing(ProcessGroupCoordinator):
    """A coordinator whose rank 1 changes the last bit of one weight when a network starts."""

    def __init__(self) -> None:
        super().__init__()
        if self.rank == 1:
            reach = Trajectory.reach

            def reach_otherwise(self: Trajectory, k: int, t: int) -> None:
                reach(self, k, t)
                weight = next(self.network.parameters()).data.view(-1)
                weight[:1] = torch.nextafter(weight[:1], torch.tensor(1e9))

            Trajectory.reach = reach_otherwise


def test_a_network_that_differs_is_detected(tmp_path: Path) -> None:
    found = cases.together(2, {"dc": ("dc", Perturbing)}, tmp_path)["dc"]
    assert isinstance(found, str)
    assert "the shared state differs between workers after step 1: ranks [1] disagree with rank 0" in found


@pytest.mark.parametrize("bit", [0, 22, 31])
def test_a_checksum_notices_each_bit(bit: int, tmp_path: Path) -> None:
    from dist_condense.engine.coordinator import LocalCoordinator, Placement
    from dist_condense.job.worker import assemble

    trajectory = assemble(cases.load("dc", f"output={tmp_path}"), LocalCoordinator(), Placement()).procedure.trajectory
    before = trajectory.checksum()
    flat = next(trajectory.network.parameters()).data.view(torch.int32).view(-1)
    flat[3] ^= -(2**31) if bit == 31 else 1 << bit
    assert trajectory.checksum() != before


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Create a folder of three classes with two images each."""
    root = tmp_path / "photographs"
    for split in ("train", "val"):
        for name in ("ant", "bee", "cat"):
            (root / split / name).mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (16, 16), (40 * i, 90, 10)).save(root / split / name / f"{i}.png")
    return root


def listing(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


IMAGES = ["dataset.name=image_folder", "dataset.size=8", "dataset.constants=imagenet"]
REFUSALS: dict[str, tuple[list[str], list[str]]] = {
    "missing root": ([*IMAGES, "dataset.root=ROOT/nowhere"], ["nowhere is not a folder"]),
    "no root": ([*IMAGES, "dataset.root=null"], ["no folder was given"]),
    "missing class": ([*IMAGES, "dataset.root=ROOT", "dataset.classes=[ant,dog]"], ["dog"]),
    "one class": ([*IMAGES, "dataset.root=ROOT", "dataset.classes=[bee]"], ["bee is the only class", "at least two"]),
    "one class of arrays": (["dataset.classes=['3']"], ["dataset.classes: 3 is the only class"]),
    "a root that is no UTF-8": (
        [*IMAGES, "dataset.root='ROOT/caf\udce9'"],
        [r"dataset.root: ", r"caf\xe9 is not UTF-8"],
    ),
    "numbers": (
        ["ipc=0", "method.parameterisation.factor=0", "trajectory.networks=0", "evaluation.seeds=0"],
        ["ipc: 0", "method.parameterisation.factor: 0", "trajectory.networks: 0", "evaluation.seeds: 0"],
    ),
    "factor": (["method.parameterisation.factor=9"], ["method.parameterisation.factor: 9", "side, 8"]),
    "start": (
        [*IMAGES, "dataset.root=ROOT", "method.start=real", "ipc=3"],
        ["method.start: real needs more real images than there are of ant (2 of 3), bee (2 of 3), cat (2 of 3); set a"],
    ),
    "mixed start": (
        [*IMAGES, "dataset.root=ROOT", "method.start=mixed", "ipc=1", "method.parameterisation.factor=2"],
        ["method.start: mixed needs more real images than there are of ant (2 of 4)"],
    ),
    "grouping": (
        ["method.grouping.name=given", "method.grouping.groups=[[0,1,2,3],[4,5,6,7,8]]"],
        ["missing [9]"],
    ),
    "no grouping": (["method.grouping.name=given"], ["method.grouping.groups: list the labels"]),
    "too many groups": (["method.grouping.name=kmeans", "method.grouping.number=11"], ["11 groups of 10"]),
    "names": (
        ["method.start=nois", "method.distance=mse", "evaluation.protocol=x", "method.augmentation.always=[flop]"],
        ["method.start: 'nois'", "method.distance: 'mse'", "evaluation.protocol: 'x'", "augmentation.always: 'flop'"],
    ),
    "keys": (
        ["ipd=2", "+network.widht=3", "trajectory.networks=many", "ipc=0", "method.start=nois"],
        ["ipd: unknown key", "did you mean network.width?", "trajectory.networks: 'many'", "ipc: 0", "'nois'"],
    ),
    "architectures": (["evaluation.architectures=[resnet19]", "network.name=convnot"], ["resnet19", "convnot"]),
    "coupled images": (["network.norm=batch", "compute.slices=3"], ["compute.slices: 3", "BatchNorm"]),
    "coupled embedding": (["network.norm=batch", "method=dm", "training=frozen"], ["couples all images"]),
    "output in a file": (["output=ROOT/train/ant/0.png/run"], ["output"]),
    "output that is an address": (["output=s3://bucket/run"], ["output: s3://bucket/run"]),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_refused_with_every_problem_and_nothing_written(
    what: str, photographs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    overrides, expected = REFUSALS[what]
    before = listing(tmp_path)
    given = [pair.replace("ROOT", str(photographs)) for pair in overrides]
    assert command("dc", tmp_path / "run", *given) == cli.REFUSED
    reported = capfd.readouterr().err
    assert all(part in reported for part in expected), reported
    assert all(line.startswith("refused: ") for line in reported.splitlines()), reported
    assert listing(tmp_path) == before


def test_empty_class_folder(photographs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for image in (photographs / "train" / "bee").iterdir():
        image.unlink()
    before = listing(tmp_path)
    assert command("dc", tmp_path / "run", *IMAGES, f"dataset.root={photographs}", "ipc=0") == cli.REFUSED
    reported = capfd.readouterr().err
    assert "bee" in reported and "ipc: 0" in reported
    assert listing(tmp_path) == before


def test_a_folder_of_another_config(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    short = ("trajectory.networks=1", "trajectory.matching_steps=1")
    assert command("dc", tmp_path, *short) == 0
    before = listing(tmp_path)
    capfd.readouterr()
    assert command("dc", tmp_path, *short, "seed=1", "method.images.lr=0.2", "compute.slices=2") == cli.REFUSED
    reported = capfd.readouterr().err
    for difference in (
        "seed: 0 there, 1 now",
        "method.images.lr: 0.1 there, 0.2 now",
        "compute.slices: 4 there, 2 now",
    ):
        assert difference in reported
    assert listing(tmp_path) == before
    free = ("tracking.experiment=other", "tracking.log_every=1", "cluster.max_failures=1", "evaluation.seeds=1")
    evaluated = ("evaluation.epochs=1", "evaluation.sets=[condensed]")
    assert command("dc", tmp_path, *short, *free, *evaluated) == 0
    assert "the set is complete after" in capfd.readouterr().err
    assert len((tmp_path / "evaluation.csv").read_text().splitlines()) == 2


def test_relative_root_and_output_continue(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    short = ("trajectory.networks=1", "trajectory.matching_steps=1", "method.real_batch=2", "ipc=1")
    for _ in range(2):
        assert command("dc", Path("run"), *short, *IMAGES, "dataset.root=photographs") == 0, capfd.readouterr().err
    assert "the set is complete after" in capfd.readouterr().err


def test_images_to_test_on_are_needed_for_evaluation_alone(
    photographs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (photographs / "val").rename(photographs / "validation")
    (photographs / "train" / "bee" / "notes.txt").touch()
    short = ("trajectory.networks=1", "trajectory.matching_steps=1", "method.real_batch=2", "ipc=1")
    given = (*short, *IMAGES, f"dataset.root={photographs}")
    assert command("dc", tmp_path / "run", *given) == 0
    reported = capfd.readouterr().err
    assert f"note: {photographs}/train: 6 images of 3 classes; ignored: 1 .txt" in " ".join(reported.split())
    before = listing(tmp_path / "run" / "synthetic_set")
    assert cli.main(["evaluate", str(tmp_path / "run"), "evaluation.epochs=1"]) == cli.REFUSED
    reported = capfd.readouterr().err
    assert (
        reported.count("\n") == 1
        and "photographs has no folder val or test (it holds the folders train, valid" in reported
    )
    assert listing(tmp_path / "run" / "synthetic_set") == before
    assert command("dc", tmp_path / "other", *given, "evaluation.epochs=1") == cli.REFUSED


# --- reported, and carried on -----------------------------------------------------------------------------------------


def test_fewer_images_than_a_batch_and_no_tracking_server(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    few = ("method.real_batch=400", "trajectory.networks=1", "trajectory.matching_steps=1")
    assert command("dc", tmp_path, *few, "tracking.uri=http://127.0.0.1:9") == 0
    reported = capfd.readouterr().err
    assert "fewer real images than method.real_batch=400, so each step uses all: " in reported
    assert f"replay later with: dist-condense replay {tmp_path}" in reported
    assert len(load_set(tmp_path / "synthetic_set")) == 20
