"""load.py, which loads a synthetic set with torch and safetensors alone."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from dist_condense.result.card import BY_HAND, DECODING
from dist_condense.result.loader import LOADER, TEXT
from dist_condense.result.synthetic_set import load_set, write_set
from tests.doors.test_sets import SETS

ALONE = "import sys; sys.modules['dist_condense'] = None; "


def python(code, folder):
    command = [sys.executable, "-I", "-c", ALONE + code]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=True).stdout


def test_the_loader_gives_without_this_package_what_load_set_gives(tmp_path):
    for name, (pixels, labels, card) in SETS.items():
        write_set(tmp_path / name, pixels, labels, card)
    code = """if True:
        from runpy import run_path
        from pathlib import Path
        from safetensors.torch import save_file
        for folder in list(Path().iterdir()):
            images, labels = run_path(folder / "load.py")["load"]()
            save_file({"images": images, "labels": labels}, f"{folder}.loaded")
        """
    python(code.replace("if True:", "\nif True:"), tmp_path)
    for name in SETS:
        loaded, dataset = load_file(tmp_path / f"{name}.loaded"), load_set(tmp_path / name)
        assert torch.equal(loaded["images"], dataset.batch(torch.arange(len(dataset)))), name
        assert torch.equal(loaded["labels"], dataset.labels), name


def test_the_loader_is_imported_by_its_name_and_loads_another_folder(tmp_path):
    pixels, labels, card = SETS["of bytes"]
    write_set(tmp_path / "one", pixels, labels, card)
    write_set(tmp_path / "two", pixels[:3], labels[:3], replace(card, ipc=1))
    code = "sys.path.insert(0, 'one'); from load import load; print(len(load()[0]), len(load('two')[1]))"
    assert python(code, tmp_path).split() == ["24", "12"]


def test_the_loader_run_as_a_program_prints_shapes_and_escaped_names(tmp_path):
    pixels, labels, card = SETS["soft"]
    names = ("\x1b]0;title\a", "\u202ethree", "four\ndone")
    classes = [replace(entry, name=name) for entry, name in zip(card.classes, names, strict=True)]
    write_set(tmp_path / "s", pixels, labels, replace(card, classes=classes))
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([sys.executable, "-I", tmp_path / "s" / LOADER], env=environment, capture_output=True)
    assert done.stdout.decode().splitlines() == [
        "images [24, 1, 5, 5] labels [24, 3]",
        r"classes ['\x1b]0;title\x07', '\u202ethree', 'four\ndone']",
    ]


def test_the_loader_has_the_lines_of_the_card(tmp_path):
    assert DECODING in BY_HAND and all(line in TEXT for line in BY_HAND.splitlines() if not line.startswith("folder ="))


@pytest.mark.parametrize("name", [LOADER, "README.md"])
def test_a_set_opens_whatever_these_files_contain_and_executes_nothing(tmp_path, name):
    pixels, labels, card = SETS["of bytes"]
    write_set(tmp_path / "s", pixels, labels, card, lambda written: "text")
    file, mark = tmp_path / "s" / name, tmp_path / "mark"
    assert file.is_file()
    file.write_text(f"open({str(mark)!r}, 'w')")
    assert torch.equal(load_set(tmp_path / "s").pixels(), pixels)
    file.unlink()
    assert torch.equal(load_set(tmp_path / "s").pixels(), pixels) and not mark.exists()
