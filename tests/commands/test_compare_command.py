"""``dist-condense compare``: tables on stdout or in a file, and refusals in one line each."""

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest

from dist_condense.commands import cli
from tests.result.comparison.folders import folder_of_run

SMALL = (
    *(
        "cluster.workers=0",
        "network.width=4",
        "network.depth=1",
        "trajectory.networks=1",
        "trajectory.matching_steps=1",
    ),
    *("dataset.name=arrays", "ipc=1", "method.real_batch=4", "evaluation.epochs=1", "evaluation.seeds=1"),
    *("evaluation.sets=[condensed]", "tracking.uri=http://127.0.0.1:9"),
)


@pytest.fixture
def folders(tmp_path):
    """Write the folders of a run of DC and of a run of DSA."""
    return [
        str(folder_of_run(tmp_path / name, {"condensed": [top1, top1 + 2]}, method__name=name))
        for name, top1 in (("dc", 60), ("dsa", 70))
    ]


def test_the_table_of_the_terminal(folders, capsys):
    assert cli.main(["compare", *folders]) == 0
    printed = capsys.readouterr()
    head, *rows = (line.split() for line in printed.out.splitlines())
    assert head == ["method", "top-1", "±", "networks", "seeds", "networks", "hours", "bytes"]
    assert [row[:5] for row in rows] == [["dc", "61.0", "1.4", "1", "2"], ["dsa", "71.0", "1.4", "1", "2"]]
    assert printed.err == "dataset digits, ipc 1, architecture mlp, protocol dc, epochs 300\n"


@pytest.mark.parametrize(("name", "start"), [("md", "dataset"), ("csv", "method,"), ("latex", "%"), ("html", "<!doc")])
def test_a_file_has_what_is_printed(folders, tmp_path, capsys, name, start):
    assert cli.main(["compare", *folders, "--format", name]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(start)
    file = tmp_path / "table"
    assert cli.main(["compare", *folders, "--format", name, "--output", str(file)]) == 0
    assert file.read_text() == printed and capsys.readouterr().out == ""


def test_a_folder_of_runs_is_its_runs_with_results(folders, tmp_path, capsys):
    (tmp_path / "mlartifacts").mkdir()
    (tmp_path / "mlflow.db").touch()
    unfinished = folder_of_run(tmp_path / "unfinished", {"condensed": [60]})
    (unfinished / "evaluation.csv").unlink()
    assert cli.main(["compare", *folders]) == 0
    table = capsys.readouterr().out
    assert cli.main(["compare", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert printed.out == table
    assert printed.err.endswith(f"note: left out, without evaluation.csv: 1 in {tmp_path}, unfinished\n")


def test_the_runs_of_a_sweep_are_those_of_the_folder_around_it(folders, tmp_path, capsys):
    assert cli.main(["compare", *folders]) == 0
    table = capsys.readouterr().out
    sweep = tmp_path / "outputs" / "two"
    sweep.mkdir(parents=True)
    for folder in folders:
        os.rename(folder, sweep / f"recipe={os.path.basename(folder)},seed=0")
    for name in ("two/recipe=dm,seed=0", "selections/herding", "a/b/deeper"):
        unfinished = folder_of_run(tmp_path / "outputs" / name, {"condensed": [60]})
        (unfinished / "evaluation.csv").unlink()
    for folder in (sweep, sweep.parent):
        assert cli.main(["compare", str(folder)]) == 0
        printed = capsys.readouterr()
        assert printed.out == table
    assert printed.err.endswith(f"evaluation.csv: 1 in {sweep.parent}, two/recipe=dm,seed=0\n")


def test_a_run_that_cannot_be_read_is_refused_by_name_and_else_left_out(folders, tmp_path, capsys):
    assert cli.main(["compare", folders[0]]) == 0
    table = capsys.readouterr().out
    config = os.path.join(folders[1], "config.yaml")
    with open(config, "a") as file:
        file.write("nokey: 1\n")
    assert cli.main(["compare", *folders]) == 2
    [refusal] = capsys.readouterr().err.splitlines()
    assert refusal.startswith(f"refused: {config}: nokey")
    assert cli.main(["compare", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert printed.out == table and f"note: left out: {config}: nokey" in printed.err


def test_a_run_that_is_named_twice_is_there_once(folders, tmp_path, capsys):
    assert cli.main(["compare", folders[0], f"{folders[0]}/"]) == 0
    once = capsys.readouterr()
    assert "left out" not in once.err
    (tmp_path / "link").symlink_to(folders[0])
    assert cli.main(["compare", folders[0], str(tmp_path / "link")]) == 0
    assert capsys.readouterr().out == once.out


def test_folders_that_may_not_be_read_are_named(folders, tmp_path, capsys, monkeypatch):
    shut = tmp_path / "shut"
    shut.mkdir()
    lstat, listdir = Path.lstat, os.listdir

    def entered(path):
        if path.parent == shut:
            raise PermissionError(13, "Permission denied", str(path))
        return lstat(path)

    def listed(path):
        if path == shut:
            raise PermissionError(13, "Permission denied", str(path))
        return listdir(path)

    monkeypatch.setattr(Path, "lstat", entered)
    monkeypatch.setattr(os, "listdir", listed)
    assert cli.main(["compare", str(tmp_path)]) == 0
    assert f"note: left out: {shut} cannot be read: Permission denied" in capsys.readouterr().err
    assert cli.main(["compare", str(shut)]) == 2
    assert capsys.readouterr().err == f"refused: {shut} cannot be read: Permission denied\n"


def test_every_problem_is_one_line(folders, tmp_path, capsys):
    no_run, no_rows, linked = (tmp_path / name for name in ("no_run", "no_rows", "linked"))
    no_run.mkdir()
    for folder in (no_rows, linked):
        folder_of_run(folder, {"condensed": [60]})
        (folder / "evaluation.csv").unlink()
    os.symlink("/etc/passwd", linked / "evaluation.csv")
    given = [str(tmp_path / "none"), *map(str, (no_run, no_rows, linked))]
    assert cli.main(["compare", *folders, *given, "--by", "sede"]) == 2
    printed = capsys.readouterr()
    first, second, third, fourth, fifth = printed.err.splitlines()
    assert printed.out == ""
    assert first == f"refused: {tmp_path}/none is not the folder of a run: config.yaml is missing"
    assert second.startswith(f"refused: {no_run} is not the folder of a run")
    assert third.startswith(f"refused: {no_rows}/evaluation.csv is missing")
    assert fourth.startswith(f"refused: {linked}/evaluation.csv is a link, to /etc/passwd")
    assert fifth.startswith("refused: --by: 'sede' is unknown; choose one of method,") and "mean seed?" in fifth


@pytest.mark.parametrize("damaged", ["config.yaml", "evaluation.csv", "synthetic_set/card.json", "environment.json"])
@pytest.mark.parametrize("content", [b"\xff{", b""])
def test_a_damaged_file_is_named(folders, damaged, content, capsys):
    with open(os.path.join(folders[0], damaged), "wb") as file:
        file.write(content)
    assert cli.main(["compare", *folders]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("refused: ") and os.path.join(folders[0], damaged) in line


def test_a_file_needs_a_format_and_a_folder(folders, tmp_path, capsys):
    assert cli.main(["compare", *folders, "--output", str(tmp_path / "x.md")]) == 2
    assert "add --format" in capsys.readouterr().err
    assert cli.main(["compare", *folders, "--format", "md", "--output", str(tmp_path / "none" / "x.md")]) == 2
    assert f"--output: {tmp_path}/none/x.md cannot be written" in capsys.readouterr().err
    os.mkfifo(tmp_path / "pipe")
    for place in ("/", "/dev/null", str(tmp_path), str(tmp_path / "pipe")):
        assert cli.main(["compare", *folders, "--format", "md", "--output", place]) == 2
        assert capsys.readouterr().err == f"refused: --output: {place} is no file; name another\n"
    assert Path("/dev/null").is_char_device() and (tmp_path / "pipe").is_fifo()


def test_runs_without_networks_of_their_own_set_are_named(tmp_path, capsys):
    folder = folder_of_run(tmp_path / "run", {"random": [30]})
    assert cli.main(["compare", str(folder)]) == 2
    assert capsys.readouterr().err.startswith(f"refused: {folder}: none of the runs has networks that were trained on")


def test_runs_with_other_images_in_the_same_file_are_separate_rows(tmp_path, capsys):
    file, images = tmp_path / "x.npz", np.arange(2 * 4 * 64, dtype=np.uint8).reshape(8, 8, 8)
    common = {"y_train": np.arange(8) % 2, "x_train": images, "y_test": np.arange(8) % 2}
    outputs = []
    for seed, added in enumerate((0, 1)):
        np.savez(file, **common, x_test=images + np.uint8(added))
        outputs.append(f"{tmp_path}/seed{seed}")
        given = (*SMALL, f"dataset.root={file}", f"seed={seed}", f"output={outputs[-1]}")
        assert cli.main(["run", "configs/digits.yaml", *given]) == 0
    capsys.readouterr()
    assert cli.main(["compare", *outputs, "--format", "csv"]) == 0
    assert [row["seeds"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))] == ["1", "1"]
    recorded = [json.loads(Path(output, "environment.json").read_text()) for output in outputs]
    assert recorded[0]["data"] == recorded[1]["data"] and recorded[0]["test_data"] != recorded[1]["test_data"]
    assert cli.main(["compare", *outputs]) == 0
    assert "cannot always be compared: they differ in test_data" in capsys.readouterr().err
