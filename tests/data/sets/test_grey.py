"""The user's own images are grey where all files are: by their headers, the manifest, or the run's first start."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from dist_condense.data import DataError, open_dataset
from dist_condense.data.preparing import prepare as preparing
from dist_condense.data.reading import headers
from dist_condense.job.job import Job
from dist_condense.planning.images import assumed
from dist_condense.settings.config import ConfigError, from_dict
from tests.data.shards.shard_cases import photograph, prepared, write_tar


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of three grey training images, and a test image each."""
    for position, name in enumerate(("cat", "dog")):
        for split, files in (("train", ("a.jpg", "b.png", "c.tif")), ("val", ("d.png",))):
            folder = tmp_path / "mine" / split / name
            folder.mkdir(parents=True)
            for index, file in enumerate(files):
                photograph(10 * position + index, "L").save(folder / file)
    return tmp_path / "mine"


def test_a_grey_folder_has_one_channel(root: Path) -> None:
    grey = open_dataset("image_folder", root, size=40)
    assert (grey.channels, len(grey.mean), grey.train_split.digest()) != (3, 3, "")
    [pixels, *_] = grey.train().images[1]
    assert pixels.shape == (1, 40, 40)
    wide = open_dataset("image_folder", root, size=40, channels=3)
    assert torch.equal(wide.train().images[0], grey.train().images[0].expand(-1, 3, -1, -1))
    assert wide.train_split.digest() != grey.train_split.digest()
    assert open_dataset("imagenet", root, size=8).channels == 3


def palette(colour: tuple[int, int, int]) -> Image.Image:
    image = Image.new("P", (8, 8))
    image.putpalette([0, 0, 0, 9, 9, 9, *colour])
    image.putdata([index % 3 for index in range(64)])  # a GIF keeps the colours that are used
    return image


@pytest.mark.parametrize(
    ("image", "ending", "channels"),
    [
        (photograph(1), "jpg", 3),
        (photograph(1, "CMYK"), "jpg", 3),
        (photograph(1, "L").convert("RGB"), "png", 3),
        (photograph(1, "RGBA"), "png", 3),
        (photograph(1, "LA"), "png", 1),
        (photograph(1, "1"), "png", 1),
        (Image.new("I;16", (8, 8)), "png", 1),
        (palette((200, 0, 0)), "png", 3),
        (palette((200, 200, 200)), "png", 1),
        (palette((200, 0, 0)), "gif", 3),
        (palette((200, 0, 0)), "bmp", 3),
    ],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_one_coloured_file_makes_it_rgb(root: Path, image: Image.Image, ending: str, channels: int, split: str) -> None:
    image.save(root / split / "dog" / f"z.{ending}")
    assert open_dataset("image_folder", root).channels == channels


def test_the_first_coloured_file_ends_the_reading_and_broken_ones_do_not_count(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "train" / "cat" / "a.jpg").write_bytes(b"no image")
    assert open_dataset("image_folder", root).channels == 1
    read: list[str] = []
    photograph(1).save(root / "train" / "cat" / "b.png")
    headers.channels_of((f"{root}/train/cat/{name}" for name in ("c.tif", "b.png", "a.jpg")), _noted(read))
    assert [Path(file).name for file in read] == ["c.tif", "b.png"]
    monkeypatch.setattr(headers, "BLOCK", 1)  # the first one alone, then by threads
    assert open_dataset("image_folder", root).channels == 3


def _noted(read: list[str]) -> Callable[[str], str]:
    def note(file: str) -> str:
        read.append(file)
        return file

    return note


@pytest.mark.parametrize("size", [None, 16])
def test_prepared_shards_are_as_their_manifest_says(root: Path, tmp_path: Path, size: int | None) -> None:
    assert prepared(root, tmp_path / "dest", size=size, png=size is not None).channels == 1
    opened, folder = (open_dataset("image_folder", place, size=16) for place in (tmp_path / "dest", root))
    assert opened.channels == 1
    assert torch.equal(opened.train().images[1], folder.train().images[1])
    with pytest.raises(DataError, match=r"dataset.channels is 3, but the images of .* were prepared with 1; leave it"):
        open_dataset("image_folder", tmp_path / "dest", channels=3)
    file = tmp_path / "dest" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"channels": 3}))  # of before grey stayed grey
    assert open_dataset("image_folder", tmp_path / "dest", size=16).train().images[0].shape == (3, 3, 16, 16)


def test_preparing_continues_with_the_channels_of_its_first_start(root: Path, tmp_path: Path) -> None:
    dest, options = tmp_path / "dest", preparing.PrepareOptions(size=16)
    planned = preparing.plan(str(root), dest, options, map_unordered=map)  # type: ignore[arg-type]
    assert isinstance(planned, preparing.Preparation)
    record = dest / preparing.RECORDS / preparing.IDENTITY
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps(planned._options))
    assert prepared(root, tmp_path / "other", size=16).channels == planned.source.channels == 1
    record.write_text(json.dumps({k: v for k, v in planned._options.items() if k != "channels"}))  # of a version before
    assert prepared(root, dest, size=16).channels == 3


def test_tars_by_their_headers(root: Path, tmp_path: Path) -> None:
    grey, coloured = root / "train" / "cat" / "b.png", tmp_path / "coloured.png"
    photograph(3).save(coloured)
    for file, channels in ((grey, 1), (coloured, 3)):
        tar = write_tar(tmp_path / "one.tar", [("x.png", file.read_bytes()), ("x.cls", b"0")])
        made = prepared(tar, tmp_path / f"dest{channels}", val=str(tar))
        assert made.channels == channels


@pytest.mark.parametrize(
    ("name", "message"), [("digits", "digits has 1; leave it out"), ("image_folder", "give 1 (grey)")]
)
def test_other_channels_are_refused(root: Path, name: str, message: str) -> None:
    with pytest.raises(DataError) as refused:
        open_dataset(name, root, channels=2)
    assert message in refused.value.problems[0]


def settings(root: Path, output: Path) -> dict[str, object]:
    return {
        "output": str(output),
        "dataset": {"name": "image_folder", "root": str(root), "size": 16},
        "network": {"width": 4, "depth": 2},
        "trajectory": {"networks": 1, "matching_steps": 1},
        "method": {"real_batch": 2},
        "evaluation": {"epochs": 0},
        "tracking": {"uri": f"sqlite:///{output}.db"},
    }


def test_a_run_stores_its_channels_and_one_of_before_keeps_three(root: Path, tmp_path: Path) -> None:
    config = from_dict(settings(root, tmp_path / "run"))
    first = Job.prepare(config)
    assert (first.config.dataset.channels, first.dataset.channels, len(first.dataset.mean)) == (1, 1, 1)
    first._write_start()
    photograph(1).save(root / "val" / "dog" / "d.png")  # no training image: the run goes on as it began
    assert Job.prepare(config).dataset.channels == 1
    file = tmp_path / "run" / "config.yaml"
    content = yaml.safe_load(file.read_text())
    for key in ("channels", "mean", "std"):
        del content["dataset"][key]
    file.write_text(yaml.safe_dump(content))
    again = Job.prepare(config)
    assert (again.config.dataset.channels, again.dataset.channels, again.dataset.mean) == (3, 3, (0.485, 0.456, 0.406))
    config.dataset.channels = 1
    content["dataset"]["channels"] = 3
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=r"dataset.channels: 3 there, 1 now"):
        Job.prepare(config)


def test_a_plan_without_the_images_takes_the_channels_that_are_given() -> None:
    config = from_dict({"dataset": {"name": "image_folder", "channels": 1}})
    images = assumed(config, 2, 3)
    assert images.train([0], None).images[0].shape == (3, 1, 224, 224)
    assert len(images.mean) == len(images.std) == 1
