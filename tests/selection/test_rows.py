"""Selections as rows of an evaluation: separate runs, made once for all runs on the same data."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dist_condense import run
from dist_condense.engine.training import NetworkTrainer
from dist_condense.evaluation.rows import read_csv
from dist_condense.job import exporting
from dist_condense.job.comparing import TRAINING_SETS, alone
from dist_condense.job.job import Job
from dist_condense.job.journal import Journal
from dist_condense.result.card import read_card
from dist_condense.result.synthetic_set import load_set
from dist_condense.selection.table import SELECTIONS
from dist_condense.settings import config, selecting
from dist_condense.settings.config import RunConfig
from dist_condense.settings.run_folder import SELECTIONS_FOLDER, RunFolder
from dist_condense.system import terminal
from tests.engine import cases

AWAY = "tracking.uri=http://127.0.0.1:9"
EVALUATED = ("evaluation.sets=[random,herding]", "evaluation.seeds=1", "evaluation.epochs=1")
FEW = ("trajectory.networks=1", "trajectory.matching_steps=1", "method.real_batch=8")


@pytest.fixture(autouse=True)
def no_second_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable retries for an unreachable server, which take MLflow seconds."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def command(folder: Path, *more: str) -> int:
    pairs = {x.split("=", 1)[0]: x for x in (*cases.TINY, *FEW, *EVALUATED, *more)}
    return run.main(["configs/digits.yaml", "cluster.workers=0", AWAY, f"output={folder}", *pairs.values()])


def prepared(folder: Path, *more: str) -> Job:
    given = ("cluster.workers=0", AWAY, f"output={folder}", *cases.TINY, *FEW, *EVALUATED, *more)
    return Job.prepare(config.load("configs/digits.yaml", given))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run DC with evaluation rows of both selections; return the run and the selections beside it."""
    torch.set_num_threads(1)
    parent = tmp_path_factory.mktemp("outputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        assert command(parent / "dc") == 0
    return parent


def selections(parent: Path) -> list[Path]:
    return sorted(path for path in (parent / SELECTIONS_FOLDER).iterdir() if path.is_dir())


def updates(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows with every update of a network."""
    done, update = list[int](), NetworkTrainer.update

    def counted(self: NetworkTrainer, *given: object) -> None:
        done.append(1)
        update(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(NetworkTrainer, "update", counted)
    return done


def images(folder: Path) -> Tensor:
    return load_set(folder / "synthetic_set").pixels()


def test_rows_and_sets_are_there(made: Path) -> None:
    assert [row.set for row in read_csv(RunFolder(made / "dc").evaluation)] == ["random", "herding"]
    (folder,) = selections(made)
    card = read_card(folder / "synthetic_set")
    assert (card.method, card.value_space, card.complete, card.steps) == ("herding", "unit", True, 10)
    assert (folder / "synthetic_set" / "preview.png").exists() and (folder / "report.html").exists()
    assert not RunFolder(folder).evaluation.exists()


def test_another_method_on_the_same_data_trains_no_network(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = updates(monkeypatch)
    assert command(made / "dm", "method=dm", "training=frozen", "method.augmentation.one_of=[color]") == 0
    assert done == [] and len(selections(made)) == 1
    both = [{row.set: row.top1_last for row in read_csv(RunFolder(made / name).evaluation)} for name in ("dc", "dm")]
    assert both[0] == both[1]


def test_the_row_is_that_of_a_run_of_the_method(made: Path, tmp_path: Path) -> None:
    assert command(tmp_path / "herding", "method=herding", "evaluation.epochs=0") == 0
    assert torch.equal(images(tmp_path / "herding"), images(selections(made)[0]))
    assert command(tmp_path / "random", "method=random", "evaluation.epochs=0") == 0
    draw = TRAINING_SETS["random"](prepared(made / "dc").comparison).draw(0)
    assert torch.equal((images(tmp_path / "random") * 255).round().byte(), draw.images)


def test_what_an_earlier_run_began_is_continued(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        """Stands for a power cut."""

    whole = Journal.after_step

    def after_step(self: Journal, done: int) -> None:
        whole(self, done)
        if done == 4:
            self.writer.wait()
            raise Killed

    job = prepared(tmp_path / "dc", "tracking.checkpoint_steps=1")
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "after_step", after_step)
        with pytest.raises(Killed):
            TRAINING_SETS["herding"](job.comparison)
    done = updates(monkeypatch)
    TRAINING_SETS["herding"](job.comparison)
    assert done == []
    assert torch.equal(images(selections(tmp_path)[0]), images(selections(made)[0]))


def test_two_runs_at_once_wait_for_each_other(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run waits until the first has stored the set, and then makes none itself."""
    comparison = prepared(tmp_path / "dc").comparison
    (done,) = selections(made)
    entered, waits = threading.Event(), threading.Event()

    def first() -> None:
        with alone(tmp_path / SELECTIONS_FOLDER / done.name):
            entered.set()
            assert waits.wait(60)
            shutil.copytree(done, tmp_path / SELECTIONS_FOLDER / done.name)

    def say(text: str) -> None:
        assert text.endswith("waiting for it")
        waits.set()

    monkeypatch.setattr(terminal, "say", say)
    thread = threading.Thread(target=first)
    thread.start()
    assert entered.wait(60)
    TRAINING_SETS["herding"](replace(comparison, run=lambda config: pytest.fail("selected again")))
    thread.join()
    assert waits.is_set()


# --- the folder's name --------------------------------------------------------------------------------------------


def own_run(given: RunConfig | Job) -> RunConfig:
    job = given if isinstance(given, Job) else Job.prepare(given)
    return selecting.run_of_its_own(job.config, job.dataset, "herding")


@pytest.mark.parametrize(
    ("given", "same"),
    [
        (["method=dsa"], True),
        (["trajectory.networks=7", "training.lr=3"], True),
        (["evaluation.seeds=5", "tracking.log_every=1", "compute.microbatch=4"], True),
        (["ipc=3"], False),
        (["seed=1"], False),
        (["network.width=16"], False),
        (["dataset.classes=['3','8']"], False),
        (["dataset.mean=[0.5]", "dataset.std=[0.5]"], False),
        (["compute.autocast=true"], False),
    ],
)
def test_the_folder_is_known_by_everything_that_changes_the_set(given: list[str], same: bool, tmp_path: Path) -> None:
    folders = {own_run(prepared(tmp_path / name, *more)).output for name, more in {"a": [], "b": given}.items()}
    assert len(folders) == (1 if same else 2)


def test_other_images_under_the_same_name_are_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = prepared(tmp_path / "a")
    before = own_run(job).output
    monkeypatch.setattr(type(job.dataset.train_split), "digest", lambda self: "other")
    assert own_run(job).output != before


def test_every_selection_has_a_method_file_that_names_it() -> None:
    for name in SELECTIONS:
        method = config.load("configs/digits.yaml", [f"method={name}"]).method
        assert (method.name, method.procedure, method.selection.name) == (name, "selecting", name)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["method.selection.name=null"], "method.selection.name: name one of random, herding"),
        (["method.selection.name=farthest"], "'farthest' is not one of random, herding"),
        (["ipc=2000"], "would be selected than there are: 0 (143 of 2000), 1 (146 of 2000)"),
        (
            ["method.selection.batch=0", "method.selection.epochs=-1"],
            "method.selection.batch: 0 is not in the range",
        ),
    ],
)
def test_what_makes_no_sense_with_a_selection_is_refused(given: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError) as refused:
        prepared(tmp_path, "method=herding", *given)
    assert message in str(refused.value)


def test_keys_of_matching_do_not_concern_a_selection(tmp_path: Path) -> None:
    keys = ["method.unit_space=false", "method.parameterisation.factor=9", "method.start=mixed", "training.epochs=0"]
    job = prepared(tmp_path, "method=herding", "trajectory.matching_steps=2", *keys)
    card = exporting.card(job.config, job.dataset, job.outline, 0)
    assert (card.factor, card.value_space) == (1, "unit")
