import pytest
import torch

from dist_condense.result.report import write_report
from dist_condense.result.stages import PNG, Stages, cut, film, steps_of
from dist_condense.system.records import Unreadable
from tests.result.test_gallery import set_of


def state(labels=(0, 1), value=1.0):
    return {f"pixels.{c}": torch.full((2, 1, 4, 4), value) for c in labels}


@pytest.fixture
def writer(tmp_path):
    return Stages(tmp_path, steps_of(64), lambda x: x.clamp(0, 1))


def names(folder):
    return sorted(file.name for file in (folder / "stages").iterdir())


def test_pictures_are_written_at_the_start_and_after_a_sixteenth_and_a_quarter(writer, tmp_path):
    calls = []
    for step in range(65):
        writer.write(step, [1, 12], lambda step=step: calls.append(step) or state([1]))
    assert calls == [0, 4, 16] and names(tmp_path) == [f"{step:08d}_001.png" for step in calls]
    writer.write(0, [10, 11], lambda: pytest.fail("the state of other classes is not read"))
    assert steps_of(1) == {0}


def test_those_after_a_checkpoint_are_removed_and_others_kept(writer, tmp_path):
    cut(tmp_path, -1)
    for step in (0, 4, 16):
        writer.write(step, [0], state)
    (tmp_path / "stages" / "mine.png").touch()
    cut(tmp_path, 4)
    assert names(tmp_path) == ["00000000_000.png", "00000004_000.png", "mine.png"]
    cut(tmp_path, -1)
    assert names(tmp_path) == ["mine.png"]


def test_a_full_disk_costs_the_picture_alone(writer, tmp_path, caplog):
    (tmp_path / "stages").touch()
    writer.write(0, [0], state)
    assert "a picture for the report is not written" in caplog.text


def test_the_film_ends_with_the_set(writer, tmp_path):
    dataset = set_of(tmp_path, 2, 1)
    object.__setattr__(dataset.card, "steps", 16)
    assert film(tmp_path, dataset) is None
    writer.write(0, [0, 1, 2], lambda: state([0, 1, 2]))
    writer.write(4, [1], lambda: state([1], 0.5))
    writer.write(16, [0], state)  # the set itself
    shown = film(tmp_path, dataset)
    assert shown.steps == [0, 4, 16] and [name for name, _ in shown.rows] == ["class 0", "class 1"]
    (first, missing, last), (_, middle, _) = (pictures for _, pictures in shown.rows)
    assert missing is None and len({first, middle, last}) == 3
    (tmp_path / "stages" / "00000004_001.png").write_bytes(bytes(2**16))
    with pytest.raises(Unreadable, match="00000004_001"):
        film(tmp_path, dataset)


def test_only_pictures_of_the_folder_itself_are_shown(writer, tmp_path):
    """A stranger's folder may hold links to files of this machine."""
    dataset = set_of(tmp_path, 2, 1)
    object.__setattr__(dataset.card, "steps", 16)
    writer.write(0, [0, 1], state)
    outside = tmp_path / "outside.png"
    outside.write_bytes(PNG + b"of somebody else")
    (tmp_path / "stages" / "00000004_000.png").symlink_to(outside)
    (tmp_path / "stages" / "00000005_000.png").write_bytes(b"no picture")
    shown = film(tmp_path, dataset)
    assert all(set(pictures[1:-1]) <= {None} for _, pictures in shown.rows)
    (tmp_path / "stages").rename(tmp_path / "elsewhere")
    (tmp_path / "stages").symlink_to(tmp_path / "elsewhere")
    assert film(tmp_path, dataset) is None


def test_the_report_has_the_film(writer, tmp_path):
    set_of(tmp_path, 2, 1)
    (tmp_path / "set").rename(tmp_path / "synthetic_set")
    assert "From start to end" not in write_report(tmp_path).read_text()
    writer.write(0, [0, 1], state)
    text = write_report(tmp_path).read_text()
    assert "From start to end" in text and text.count('alt="class 1, step ') == 2
    (tmp_path / "stages" / "00000000_000.png").unlink()
    (tmp_path / "stages" / "00000000_000.png").mkdir()
    text = write_report(tmp_path).read_text()
    assert "From start to end" not in text and "00000000_000.png cannot be read" in text
