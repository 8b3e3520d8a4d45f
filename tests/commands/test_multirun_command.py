"""``dist-condense run CONFIG -m``: all runs are checked, then executed one after the other, then compared."""

import pytest

from dist_condense import run
from dist_condense.commands import cli, multirun_command
from dist_condense.evaluation.rows import read_csv
from dist_condense.result.synthetic_set import TENSORS
from dist_condense.settings.values import ConfigError

SMALL = (
    *("configs/digits.yaml", "cluster.workers=0", "trajectory.networks=1", "trajectory.matching_steps=1"),
    *("network.width=4", "network.depth=2", "method.real_batch=8", "tracking.uri=http://127.0.0.1:9"),
    *("evaluation.epochs=1", "evaluation.seeds=2", "evaluation.sets=[random,condensed]"),
)


def test_each_run_is_that_of_a_command_of_its_own_and_is_not_repeated(tmp_path, capsys):
    swept = ("-m", "seed=0,1", "method.start=noise,real", f"output={tmp_path}/runs")
    assert run.main([*SMALL, *swept]) == 0
    said = capsys.readouterr().err
    names = [f"method.start={start},seed={seed}" for seed in (0, 1) for start in ("noise", "real")]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == sorted(names)
    assert [line.partition(": ")[2] for line in said.splitlines() if " of 4: " in line] == names
    *_, head, first, second = (line.split() for line in said.splitlines())
    assert head[:3] == ["method.start", "method", "top-1"] and (first[0], second[0]) == ("noise", "real")
    assert cli.main(["run", *SMALL, "seed=1", "method.start=real", f"output={tmp_path}/alone"]) == 0
    sets = [path / "synthetic_set" / TENSORS for path in (tmp_path / "alone", tmp_path / "runs" / names[3])]
    assert sets[0].read_bytes() == sets[1].read_bytes()
    capsys.readouterr()
    written = sets[1].stat().st_mtime_ns
    assert run.main([*SMALL, *swept]) == 0
    assert capsys.readouterr().err.count("the set is complete after") == 4
    assert sets[1].stat().st_mtime_ns == written and len(read_csv(sets[1].parents[1] / "evaluation.csv")) == 4


def test_all_runs_are_checked_before_the_first_starts(tmp_path, capsys):
    given = ["-m", "seed=0,1", "ipc=1,0", "method.distance=non", f"output={tmp_path}/runs"]
    assert cli.main(["run", *SMALL, *given]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("refused: ") for line in lines)
    assert [line for line in lines if "ipc: 0" in line] == [
        f"refused: ipc=0,seed={seed}: ipc: 0 is not in the range 1 to 100000" for seed in (0, 1)
    ]
    [common] = [line for line in lines if "method.distance" in line]
    assert common.startswith("refused: every run: method.distance: 'non'")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("second", "code", "executed"),
    [
        (1, 1, ["seed=0", "seed=1", "seed=2"]),
        (ConfigError(["the disk is full"]), 1, ["seed=0", "seed=1", "seed=2"]),
        (RuntimeError("a fault"), 1, ["seed=0", "seed=1", "seed=2"]),
        (130, 130, ["seed=0", "seed=1"]),
        (143, 143, ["seed=0", "seed=1"]),
    ],
    ids=repr,
)
def test_only_an_interruption_stops_the_other_runs(tmp_path, monkeypatch, capsys, second, code, executed):
    started = []

    def execute(config, resume, given):
        started.append(config.output.rpartition("/")[2])
        if started[-1] != "seed=1":
            return 0
        if isinstance(second, Exception):
            raise second
        return second

    monkeypatch.setattr(multirun_command, "executed", execute)
    assert cli.main(["run", *SMALL, "-m", "seed=0,1,2", f"output={tmp_path}/runs"]) == code
    assert started == executed
    said = capsys.readouterr().err
    assert ("failed: seed=1" in said.splitlines()) == (code == 1)
    assert not isinstance(second, Exception) or str(second) in said


@pytest.mark.parametrize("given", [["--cfg"], ["--resume", "elsewhere"]], ids=str)
def test_options_of_a_single_run_are_refused(given, tmp_path, capsys):
    assert cli.main(["run", *SMALL, "-m", "seed=0,1", f"output={tmp_path}/runs", *given]) == 2
    assert "are for a single run" in capsys.readouterr().err


def test_the_folder_of_a_run_is_refused_as_that_of_several(tmp_path, capsys):
    """Its database would be taken for the one that the several runs share."""
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    assert cli.main(["run", *SMALL, "-m", "seed=0,1", f"output={tmp_path}"]) == 2
    assert f"every run: output: {tmp_path} is the folder of a run; give -m another folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_plan_is_of_one_run(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["plan", "configs/digits.yaml", "-m", "seed=0,1"])
    assert "unrecognized arguments: -m" in capsys.readouterr().err


def test_one_run_under_two_names_is_refused(tmp_path, capsys):
    assert cli.main(["run", *SMALL, "-m", "seed=1,01", f"output={tmp_path}/runs"]) == 2
    assert capsys.readouterr().err == "refused: seed=01: it is the run seed=1 again; give each value once\n"
    assert not (tmp_path / "runs").exists()
