"""README.md of a run's synthetic set: written with the set, again with the scores, and enough to make the set again."""

import getpass
import re
import socket

import pytest
import torch

from dist_condense import run
from dist_condense.job import job
from dist_condense.result.synthetic_set import README, load_set
from dist_condense.settings import config as configs
from dist_condense.system.errors import DataError
from tests.engine import cases

GIVEN = ("cluster.workers=0", "ipc=1", "evaluation.seeds=2", "evaluation.epochs=1", "evaluation.full_epochs=1")


def command(folder, *more):
    given = (*cases.TINY, *cases.CASES["dc"], *GIVEN, "evaluation.sets=[random,condensed]", *more)
    pairs = {text.split("=", 1)[0]: text for text in given}
    return ["configs/digits.yaml", *pairs.values(), f"output={folder}"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "first"
    assert run.main(command(folder)) == 0
    return folder


def page_of(folder):
    return (folder / "synthetic_set" / README).read_text()


def test_the_scores_follow_the_evaluation(tmp_path, monkeypatch):
    seen = []

    def fails(comparison):
        seen.append(page_of(tmp_path / "run"))
        raise DataError(["the test images are missing"])

    with monkeypatch.context() as patch:
        patch.setattr(job.Comparison, "rows", fails)
        assert run.main(command(tmp_path / "run")) != 0
    assert "Not evaluated yet." in seen[0] and "Not evaluated yet." in page_of(tmp_path / "run")
    assert run.main(command(tmp_path / "run")) == 0
    lines = re.findall(r"^\| (random|condensed) \| .* ± .* \| 2 \| .* \|$", page_of(tmp_path / "run"), re.MULTILINE)
    assert lines == ["random", "condensed"]


def test_no_path_user_or_host_is_in_it(finished):
    page = page_of(finished)
    for private in (str(finished), str(finished.parents[1]), socket.gethostname(), f"/{getpass.getuser()}", "sqlite:"):
        assert private not in page


def test_its_recipe_makes_the_set_again(finished, tmp_path):
    [recipe] = re.findall(r"```yaml\n(.*?)```", page_of(finished), re.DOTALL)
    (tmp_path / "recipe.yaml").write_text(recipe)
    again = configs.load(str(tmp_path / "recipe.yaml"), [f"output={tmp_path}/again"])
    first = configs.read(finished / "config.yaml")
    assert (again.method, again.trajectory, again.compute) == (first.method, first.trajectory, first.compute)
    assert run.main([str(tmp_path / "recipe.yaml"), f"output={tmp_path}/again", "evaluation.epochs=0"]) == 0
    assert torch.equal(load_set(tmp_path / "again").pixels(), load_set(finished).pixels())


def test_a_set_of_an_earlier_version_keeps_its_files(finished):
    before = page_of(finished)
    (finished / "synthetic_set" / README).unlink()
    assert run.main(command(finished)) == 0
    assert not (finished / "synthetic_set" / README).exists()
    (finished / "synthetic_set" / README).write_text("")
    assert run.main(command(finished)) == 0
    assert page_of(finished) == before


def test_another_start_of_the_run_keeps_the_page_of_its_owner(finished, monkeypatch):
    (finished / "synthetic_set" / README).write_text("of the owner")
    real = job.Job._report

    def taken_over(self, *given):
        real(self, *given)
        (finished / "owner").write_text("another host, process 1, 0")

    monkeypatch.setattr(job.Job, "_report", taken_over)
    assert run.main(command(finished)) == 1
    assert page_of(finished) == "of the owner"
