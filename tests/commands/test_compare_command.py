"""``dist-condense compare``: tables on stdout or in a file, and refusals in one line each."""

import os

import pytest

from dist_condense.commands import cli
from tests.result.comparison.folders import folder_of_run


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
    assert capsys.readouterr().out == table


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
def test_a_damaged_file_is_named(folders, damaged, capsys):
    with open(os.path.join(folders[0], damaged), "wb") as file:
        file.write(b"\xff{")
    assert cli.main(["compare", *folders]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("refused: ") and os.path.join(folders[0], damaged) in line


def test_a_file_needs_a_format_and_a_folder(folders, tmp_path, capsys):
    assert cli.main(["compare", *folders, "--output", str(tmp_path / "x.md")]) == 2
    assert "add --format" in capsys.readouterr().err
    assert cli.main(["compare", *folders, "--format", "md", "--output", str(tmp_path / "none" / "x.md")]) == 2
    assert f"--output: {tmp_path}/none/x.md cannot be written" in capsys.readouterr().err
