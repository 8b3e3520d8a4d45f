"""Broken image files are named before a run starts, once, with the number of the others."""

import time
from collections.abc import Callable
from pathlib import Path
from threading import get_ident

import pytest
import torch
from PIL import Image

from dist_condense.commands.cli import main
from dist_condense.data import open_dataset
from dist_condense.data.reading import headers
from dist_condense.data.reading.headers import check_headers
from dist_condense.data.reading.store import ClassFolder
from dist_condense.engine.coordinator import LocalCoordinator
from dist_condense.evaluation.evaluate import Trial, TrialFailed
from dist_condense.job import job, preflight, worker
from dist_condense.job.journal import RunFailed
from dist_condense.settings.config import ConfigError, from_dict
from tests.data.shards.shard_cases import CLASSES, photograph, prepared, write_folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "mine")


def settings(root: Path, output: Path, **more: object) -> dict[str, object]:
    """Return the config of a run of two steps."""
    return {
        "output": str(output),
        "dataset": {"name": "image_folder", "root": str(root), "size": 16, "classes": ["zebra", CLASSES[0]]},
        "network": {"width": 4, "depth": 2},
        "trajectory": {"networks": 1, "matching_steps": 2},
        "training": {"source": "frozen"},
        "method": {"real_batch": 2},
        "evaluation": {"epochs": 0},
        "tracking": {"uri": f"sqlite:///{output}.db"},
        **more,
    }


def broken_by(change: Callable[[Path], object], root: Path) -> str | None:
    file = root / "train" / "zebra" / "a.jpg"
    change(file)
    return check_headers(open_dataset("image_folder", root).train_split.unread)


def as_float(file: Path) -> None:
    photograph(1, "F").save(file, "TIFF")


BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda file: file.write_bytes(b""), "no image in a known format (JPEG, PNG, "),
    "text": (lambda file: file.write_bytes(b"<html>not found</html>"), "no image in a known format"),
    "another format": (lambda file: file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n"), "no image in a known format"),
    "torn header": (lambda file: file.write_bytes(file.read_bytes()[:100]), ""),
    "float": (as_float, "Pillow's mode F, whose black and white are not known; save it with 8 or 16 unsigned bits"),
}


@pytest.mark.parametrize(("change", "reason"), BREAKS.values(), ids=BREAKS)
def test_what_a_header_shows(root: Path, change: Callable[[Path], object], reason: str) -> None:
    message = broken_by(change, root)
    assert message is not None
    assert message.startswith(f"1 image file cannot be read: {root}/train/zebra/a.jpg (")
    assert reason in message
    assert message.count("a.jpg") == 1
    assert "\n" not in message


def test_more_pixels_than_the_limit_and_whole_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_dataset("image_folder", root)
    assert check_headers([*opened.train_split.unread, *opened.test_split.unread]) is None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 40)  # c.png has 61 x 33
    message = check_headers(opened.train_split.unread) or ""
    assert message.startswith("3 image files cannot be read: ")
    assert "c.png (" in message and "pixels" in message


@pytest.mark.parametrize("waiting", [-1.0, 1e9], ids=["several threads", "one thread"])
def test_the_first_are_named_in_order_and_the_others_counted(
    waiting: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headers, "WAITING", waiting)
    names = [f"{number:04}.png" for number in range(9000)]
    for name in names[::1000]:
        (tmp_path / name).write_bytes(b"no image")
    photograph(0).save(tmp_path / "whole.png")
    for name in set(names) - set(names[::1000]):
        (tmp_path / name).hardlink_to(tmp_path / "whole.png")
    message = check_headers([ClassFolder(tmp_path, tuple(names))]) or ""
    assert message.startswith(f"9 image files cannot be read: {tmp_path}/0000.png (no image")
    assert "4000.png" in message
    assert "5000.png" not in message
    assert (
        "; and 4 more. Replace or remove them, or leave them out by `dist-condense prepare SOURCE DEST --skip-bad`."
        in message
    )


def test_several_threads_read_once_files_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def block(files: list[int]) -> int:
        if files[0] == headers.BLOCK:  # the second block, as on a network file system
            time.sleep(0.01)
        return get_ident()

    monkeypatch.setattr(headers, "WAITING", 0.005 / headers.BLOCK)
    threads = list(headers._in_blocks(block, iter(range(5 * headers.BLOCK))))
    assert len(threads) == 5
    assert threads[0] == threads[1] == get_ident()
    assert get_ident() not in threads[2:]


def test_a_run_is_refused_before_it_writes_anything(root: Path, tmp_path: Path) -> None:
    for split, name, file in (("train", "zebra", "a.jpg"), ("train", CLASSES[1], "a.jpg"), ("val", "zebra", "e.png")):
        (root / split / name / file).write_bytes(b"no image")
    config = from_dict(settings(root, tmp_path / "run"))
    with pytest.raises(ConfigError) as caught:
        job.Job.prepare(config)
    [problem] = caught.value.problems  # not of the class that is not wanted, nor of val, as nothing is evaluated
    assert problem.startswith(f"dataset.root: 1 image file cannot be read: {root}/train/zebra/a.jpg (")
    config.evaluation.epochs = 1
    with pytest.raises(ConfigError, match=r"2 image files .*train/zebra/a\.jpg .*val/zebra/e\.png"):
        job.Job.prepare(config)
    assert not (tmp_path / "run").exists()
    config.data.verify = False
    config.dataset.mean, config.dataset.std = [0.5] * 3, [0.25] * 3  # else measuring reads all images
    assert job.Job.prepare(config).start is None


def test_many_files_are_announced(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []
    config, opened = from_dict(settings(root, root / "run")), open_dataset("image_folder", root)
    for many in (preflight.MANY, 12):
        monkeypatch.setattr(preflight, "MANY", many)
        preflight.headers(config, opened, messages.append)
    assert messages == ["reading the headers of 12 image files before the start (data.verify=false skips this)"]


def worked(prepared_job: job.Job) -> None:
    """Run the worker of a job in this process."""
    prepared_job.folder.mkdir()
    worker.work(prepared_job.config, LocalCoordinator(False), torch.device("cpu"))


def test_prepared_shards_and_a_resumed_run_are_not_read_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(root, tmp_path / "dest")
    config = from_dict(settings(root, tmp_path / "run"))
    worked(job.Job.prepare(config))
    monkeypatch.setattr(preflight, "check_headers", lambda folders: f"read {len(folders)}" if folders else None)
    job.Job.prepare(from_dict(settings(tmp_path / "dest", tmp_path / "other")))
    assert job.Job.prepare(config).start is not None
    config.output = str(tmp_path / "another")
    with pytest.raises(ConfigError, match="read 2"):
        job.Job.prepare(config)


@pytest.mark.parametrize("tier", ["ram", "disk"])
def test_what_only_decoding_shows_ends_the_run_with_the_name_once(root: Path, tmp_path: Path, tier: str) -> None:
    file = root / "train" / "zebra" / "c.png"
    file.write_bytes(file.read_bytes()[:-200])
    assert check_headers(open_dataset("image_folder", root).train_split.unread) is None
    config = from_dict(settings(root, tmp_path / "run", data={"tier": tier}))
    with pytest.raises(ConfigError) as measuring:
        job.Job.prepare(config)
    assert str(measuring.value).count("c.png") == 1
    config.dataset.constants = "imagenet"
    with pytest.raises(RunFailed) as caught:
        worked(job.Job.prepare(config))
    assert str(caught.value).startswith(f"class 0 (zebra): {file}: the image cannot be read (") or tier == "ram"
    assert str(caught.value).count("c.png") == 1
    assert "\n" not in str(caught.value)


def test_a_reason_that_trials_share_is_reported_once() -> None:
    reasons = {Trial("condensed", "mlp", seed): "e.png cannot be read" for seed in range(3)}
    message = str(TrialFailed.of({**reasons, Trial("random", "mlp", 0): "another"}, 5)).splitlines()
    assert message == [
        "4 of 5 trials failed:",
        "condensed / mlp / seed 0, condensed / mlp / seed 1, condensed / mlp / seed 2: e.png cannot be read",
        "random / mlp / seed 0: another",
    ]


def test_prepare_names_a_broken_image_once(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in CLASSES[:2]:
        for file in ("a.jpg", "c.png"):
            (root / "train" / name / file).write_bytes(b"no image")
    assert main(["prepare", str(root), str(tmp_path / "dest")]) == 1
    message = capsys.readouterr().err
    assert (message.count("a.jpg"), message.count("c.png")) == (1, 1)
    for number in range(10):
        (root / "train" / CLASSES[0] / f"d{number}.jpg").write_bytes(b"no image")
    assert main(["prepare", str(root), str(tmp_path / "dest")]) == 1
    message = capsys.readouterr().err
    assert message.count("the image cannot be read") == 10
    assert message.count("failed: ... and 2 more of this class.") == 1
