"""Output and exit codes of `dist-condense prepare`; tests/cluster/test_ray_tasks.py tests it on Ray."""

import os
import re
from argparse import Namespace
from concurrent.futures.process import BrokenProcessPool
from io import StringIO
from pathlib import Path

import pytest
from ray.exceptions import WorkerCrashedError
from rich.console import Console

from dist_condense.commands import cli, prepare_command
from dist_condense.data.shards.manifest_reader import read_manifest
from dist_condense.engine.ray import group
from dist_condense.job.journal import RunFailed
from tests.data.shards.shard_cases import write_folder


def test_a_folder_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, dest = write_folder(tmp_path / "source"), tmp_path / "dest"
    (source / "train" / "zebra" / "a.jpg").write_bytes(b"no image")
    arguments = ["prepare", str(source), str(dest), "--classes", "zebra,n00000001", "--size", "16"]
    assert cli.main(arguments) == 1
    assert f"failed: {source}/train/zebra/a.jpg: the image cannot be read" in capsys.readouterr().err
    assert cli.main([*arguments, "--png"]) == 2
    assert "png was False, now True" in capsys.readouterr().err
    assert cli.main([*arguments, "--skip-bad"]) == 0
    said = capsys.readouterr().out
    assert "2 classes; images: 7 train, 2 val" in said
    assert f"skipped: train zebra {source}/train/zebra/a.jpg: no image in a known format" in said
    assert [entry.name for entry in read_manifest(str(dest)).classes] == ["zebra", "n00000001"]
    assert cli.main(arguments) == 0
    assert "is complete already" in capsys.readouterr().out
    shard = dest / read_manifest(str(dest)).splits["train"][0][0].url
    shard.write_bytes(shard.read_bytes()[:-1])
    assert cli.main(arguments) == 2
    assert f"lacks shards, or they have other sizes: {shard.relative_to(dest)}. Restore" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reported"),
    [
        (["/nowhere"], "/nowhere is not a folder. Set SOURCE to its folder"),
        (["/nowhere", "--ffcv"], "--ffcv needs --size"),
        (["/nowhere", "--png"], "--png .* needs --size"),
        (["/nowhere", "--val", "v.tar"], "--val and --class-names are for tars"),
        (["/nowhere/{0..3}.tar", "--val", "v.tar"], "4 of the 4 tars"),
        (["digits:", "--classes", "1,ten"], "do not exist: ten.*Name others in --classes"),
        (["digits:", "--size", "0"], "--size: 0 is not in the range 1 to 65536"),
        (["digits:", "--class-names", "/nowhere"], "/nowhere"),
        (["digits:", "--classes", "[1,ten"], r"--classes: '\[1,ten' is not a list of names"),
        (["digits:", "--classes", "1,,2"], "--classes: '1,,2' is not a list of names"),
        (["digits:", "--workers", "0"], "--workers: 0 is not in the range 1 to 10000"),
        (["cifar11:/x"], "'cifar11:/x' is no folder, and 'cifar11' no data set; choose one of digits, .*cifar10"),
        (["digits:", "--classes", "imagenet10"], "Or is the named subset imagenet10_idc meant"),
        (["digits:", "--size", "9460"], "--size is 9460; give pixels of a side, from 1 to 9459"),
        (["digits:", "--workers", "8000"], "--workers is 8000, whose processes need 2,000 GiB"),
        (["~nobody-of-this-name/x"], "~nobody-of-this-name/x is not a folder"),
        (["{0..999999999}.tar", "--val", "v.tar"], "it stands for 1,000,000,000 tars, more than 100,000"),
        (["t.tar", "--val", "v.tar", "--class-names", "/dev/zero"], "/dev/zero cannot be read: not a regular file"),
    ],
)
def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reported: str) -> None:
    assert cli.main(["prepare", arguments[0], str(tmp_path / "dest"), *arguments[1:]]) == 2
    said = capsys.readouterr().err
    assert said.startswith("refused: ") and re.search(reported, said)
    assert not (tmp_path / "dest").exists()


def test_what_was_passed_over_is_told_first_and_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_folder(tmp_path / "source")
    for name in ("x.avif", "y.AVIF", ".hidden"):
        (source / "train" / "zebra" / name).touch()
    assert cli.main(["prepare", str(source), str(tmp_path / "dest")]) == 0
    lines = capsys.readouterr().out.splitlines()
    note = f"note: {source}/train: 12 images of 3 classes; ignored: 2 .avif, 1 hidden"
    assert lines[:2] == [note, f"note: {source}/val: 3 images of 3 classes"]
    assert cli.main(["prepare", str(source), str(tmp_path / "dest")]) == 0
    assert "note:" not in capsys.readouterr().out


def test_names_in_another_encoding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, names = write_folder(tmp_path / "source"), tmp_path / "names.txt"
    names.write_bytes(b"caf\xe9\n")
    options = ["--val", "v.tar", "--class-names", str(names)]
    assert cli.main(["prepare", "t.tar", str(tmp_path / "dest"), *options]) == 2
    assert f"--class-names: {names}, line 1: this is not UTF-8" in capsys.readouterr().err
    for split in ("train", "val"):
        (source / split / "zebra").rename(source / split / os.fsdecode(b"caf\xe9"))
    assert cli.main(["prepare", str(source), str(tmp_path / "dest")]) == 2
    assert r"not UTF-8: caf\xe9. Rename" in capsys.readouterr().err
    assert not (tmp_path / "dest").exists()


def test_the_root_of_the_file_system_is_no_destination(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["prepare", str(write_folder(tmp_path / "source")), "/"]) == 2
    assert "/ holds files that this command did not make" in capsys.readouterr().err


def test_classes_are_names_with_and_without_brackets() -> None:
    for text, names in (("1,2", ("1", "2")), ("[0, no]", ("0", "no")), ("['a,b',c]", ("a,b", "c")), (None, None)):
        assert prepare_command._classes(Namespace(classes=text)) == names
    assert prepare_command._classes(Namespace(classes="imagenet10_idc")) == "imagenet10_idc"


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_command.terminal, "clock", lambda: "14:03:59")
    shown = {}
    for terminal in (True, False):
        console = Console(file=StringIO(), force_terminal=terminal, width=100)
        with prepare_command.reporting(console) as report:
            for finished in (1, 2):
                report(finished, 2, "classes")
            report(1200, 1200, "images in train.beton")
        shown[terminal] = console.file.getvalue()
    assert shown[False] == "14:03:59 2 of 2 classes\n14:03:59 1,200 of 1,200 images in train.beton\n"
    assert "━" in shown[True] and "2/2" in shown[True] and "images in train.beton" in shown[True]


def test_a_worker_that_was_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed_at_the_second(function, items):
        waiting = iter(items)
        yield function(next(waiting))
        next(waiting)
        raise errors.pop()

    errors = [MemoryError("too little"), WorkerCrashedError(), BrokenProcessPool("A process was terminated.")]
    monkeypatch.setattr(prepare_command, "_mapping", lambda given: killed_at_the_second)
    source = write_folder(tmp_path / "source")
    for kind, ray in (("BrokenProcessPool", []), ("WorkerCrashedError", ["--ray"]), ("MemoryError", ["--ray"])):
        assert cli.main(["prepare", str(source), str(tmp_path / kind), *ray]) == 1
        said = capsys.readouterr().err
        assert re.match(rf"failed: {kind}: .*; in progress or next: train/n00000002\. The same command continues", said)
    monkeypatch.undo()
    assert cli.main(["prepare", str(source), str(tmp_path / "MemoryError")]) == 0


def test_a_cluster_that_cannot_be_had(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise RunFailed("Ray could not be joined. Try again, or run without Ray by cluster.workers=0")

    monkeypatch.setattr(group, "connect", refuse)
    assert cli.main(["prepare", "digits:", str(tmp_path / "dest"), "--ray"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("failed: RunFailed: Ray could not be joined") and "(leave out --ray)" in said
    assert not (tmp_path / "dest").exists()
