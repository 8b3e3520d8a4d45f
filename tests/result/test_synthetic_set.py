import copy
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from math import prod
from pathlib import Path
from random import Random

import numpy
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

import dist_condense
from dist_condense.core.parameterisation import MultiFormation, uniform
from dist_condense.data.normalise import ChannelStatistics
from dist_condense.data.space import Space
from dist_condense.result import card as cards
from dist_condense.result import synthetic_set
from dist_condense.result.card import Card, CardClass, SyntheticSetError, form_of, read_card
from dist_condense.result.synthetic_set import TENSORS, load_set, write_set
from dist_condense.system.files import sha256_of


def a_space(value_space, channels):
    statistics = ChannelStatistics((0.3, 0.4, 0.5, 0.6)[:channels], (0.2, 0.25, 0.3, 0.35)[:channels])
    return Space(statistics).when_normalised(value_space == "normalised")


def a_card(factor=1, size=9, channels=3, ipc=2, classes=3, value_space="unit"):
    return Card(
        method="idc",
        dataset="digits",
        classes=tuple(CardClass(c, f"class {c}", f"n{c:08d}") for c in range(classes)),
        ipc=ipc,
        **form_of(a_space(value_space, channels), (channels, size, size), MultiFormation(factor)),
        seed=1,
        steps=30,
        complete=False,
        facts={"networks_done": 3, "networks_total": 20, "matching_steps": 10},
    )


def a_set(card, seed=0):
    pixels = (
        torch.randn(
            sum(card.counts), card.channels, card.size, card.size, generator=torch.Generator().manual_seed(seed)
        )
        * 2
    )
    return pixels, torch.cat([(torch.tensor(card.counts) > i).nonzero().flatten() for i in range(max(card.counts))])


def expected(pixels, labels, card):
    grey = (0.5,) if card.value_space == "unit" else [(0.5 - m) / s for m, s in zip(card.mean, card.std, strict=True)]
    decoded, sources = uniform(pixels, MultiFormation(padding=tuple(grey)), card.factor)
    if card.value_space == "unit":
        decoded = ChannelStatistics(tuple(card.mean), tuple(card.std)).normalise(decoded)
    return decoded, labels[sources]


def test_loaded_is_written_bitwise_and_unclipped(tmp_path):
    card = a_card()
    pixels, labels = a_set(card)
    assert pixels.max() > 1
    write_set(tmp_path / "s", pixels, labels, card)
    loaded = load_set(tmp_path / "s")
    assert torch.equal(loaded.pixels(), pixels)
    assert torch.equal(loaded.labels, labels)
    assert torch.equal(load_file(tmp_path / "s" / "synthetic_set.safetensors")["images"], pixels)


@pytest.mark.parametrize("value_space", ["unit", "normalised"])
@pytest.mark.parametrize(
    ("factor", "size", "channels"), [(1, 9, 3), (2, 9, 1), (3, 9, 3), (2, 8, 3), (3, 70, 3), (2, 33, 4)]
)
def test_decoded_equals_the_core_decoding_bitwise(tmp_path, value_space, factor, size, channels):
    card = a_card(factor, size, channels, value_space=value_space)
    pixels, labels = a_set(card)
    write_set(tmp_path / "s", pixels, labels, card)
    dataset = load_set(tmp_path / "s")
    images, decoded_labels = expected(pixels, labels, card)
    assert len(dataset) == len(images) == factor**2 * len(pixels)
    assert torch.equal(dataset.labels, decoded_labels)
    assert torch.equal(dataset.batch(torch.arange(len(dataset))), images)
    assert torch.equal(torch.stack([dataset[i][0] for i in range(len(dataset))]), images)
    assert [dataset[i][1] for i in range(len(dataset))] == decoded_labels.tolist()


@pytest.mark.parametrize("value_space", ["unit", "normalised"])
def test_without_normalisation_images_have_the_values_of_real_ones(tmp_path, value_space):
    card = a_card(2, value_space=value_space)
    pixels, labels = a_set(card)
    write_set(tmp_path / "s", pixels, labels, card)
    dataset = load_set(tmp_path / "s", normalise=False)
    mean, std = (torch.tensor(x)[:, None, None] for x in (card.mean, card.std))
    images = expected(pixels, labels, card)[0] * std + mean
    torch.testing.assert_close(dataset.batch(torch.arange(len(dataset))), images)
    torch.testing.assert_close(dataset[-1][0], images[-1])


def flipped(image):
    return image.flip(2).numpy()


def test_items_are_those_of_torchvisions_data_sets(tmp_path):
    card = replace(a_card(2), classes=tuple(CardClass(c, name) for c, name in enumerate(["crane", "ant", "crane"])))
    write_set(tmp_path / "s", *a_set(card), card)
    dataset = load_set(tmp_path / "s", flipped)
    image, label = dataset[4]
    assert numpy.array_equal(image, load_set(tmp_path / "s")[4][0].flip(2)) and type(label) is int
    assert dataset.classes == ["crane (0)", "ant", "crane (2)"]
    assert dataset.class_to_idx == {"crane (0)": 0, "ant": 1, "crane (2)": 2}
    assert dataset.targets == [dataset[i][1] for i in range(len(dataset))]
    images, labels = next(iter(DataLoader(dataset, batch_size=5, num_workers=1)))
    assert torch.equal(images[4], torch.from_numpy(image)) and labels.tolist() == dataset.targets[:5]
    description = "24 images [3, 9, 9] of 3 classes, normalised, by idc from digits, in "
    assert repr(dataset) == f"SyntheticDataset({description}{str(tmp_path / 's')!r})"


def test_a_transform_that_is_no_function_is_refused(tmp_path):
    card = a_card()
    write_set(tmp_path / "s", *a_set(card), card)
    with pytest.raises(TypeError, match=r"transform is False.*verify=False"):
        load_set(tmp_path / "s", False)


@pytest.mark.parametrize("value_space", ["unit", "normalised"])
@pytest.mark.parametrize("factor", [1, 2])
def test_the_snippets_of_the_card_give_what_training_uses(tmp_path, value_space, factor):
    card = a_card(factor, value_space=value_space)
    pixels, labels = a_set(card)
    write_set(tmp_path / "synthetic_set", pixels, labels, card)
    images, decoded_labels = expected(pixels, labels, card)
    snippets = json.loads((tmp_path / "synthetic_set" / "card.json").read_text())["how_to_load"]
    names = {}
    before = Path.cwd()
    try:
        os.chdir(tmp_path / "synthetic_set")
        exec("\n".join(snippets["by_hand"]), names)
        os.chdir(tmp_path)
        exec("\n".join(snippets["with_dist_condense"]), names)
    finally:
        os.chdir(before)
    assert torch.equal(names["x"], images)
    assert torch.equal(names["y"], decoded_labels)
    assert torch.equal(names["dataset"].batch(torch.arange(len(images))), images)


def test_a_set_of_before_the_padding_was_stated_is_padded_as_it_was_learnt(tmp_path):
    card = a_card(factor=2, value_space="normalised")
    pixels, labels = a_set(card)
    write_set(tmp_path / "s", pixels, labels, card)
    file = tmp_path / "s" / "card.json"
    content = json.loads(file.read_text())
    assert content["padding"] == pytest.approx([1.0, 0.4, 0.0])  # (0.5 - mean) / std
    del content["padding"]
    file.write_text(json.dumps(content))
    images = load_set(tmp_path / "s").batch(torch.arange(len(pixels) * 4))
    assert torch.equal(images, MultiFormation(2, padding=(0.5,)).decode(pixels))


def test_the_card_comes_back_whole(tmp_path):
    card = a_card(factor=2)
    written = write_set(tmp_path / "s", *a_set(card), card)
    assert json.loads(json.dumps(asdict(read_card(tmp_path / "s")))) == json.loads(json.dumps(asdict(written)))
    assert written.images_per_class == 8
    assert written.versions["dist_condense"] == dist_condense.__version__
    assert written.created.endswith("+00:00")


def test_an_item_cannot_write_into_the_set(tmp_path):
    card = a_card(value_space="normalised")
    pixels, labels = a_set(card)
    write_set(tmp_path / "s", pixels, labels, card)
    dataset = load_set(tmp_path / "s")
    dataset[0][0].zero_()
    assert torch.equal(dataset[0][0], pixels[0])
    with pytest.raises(IndexError):
        dataset[len(dataset)]
    assert torch.equal(dataset[-1][0], pixels[-1])


def test_only_the_needed_image_is_read(tmp_path):
    """2 GB of images in a sparse file: the process grows by a few megabytes."""
    ipc, size = 1000, 400
    card = replace(a_card(2, size, 3, classes=1), ipc=ipc, format_version=1)
    labels, images = ipc * 8, ipc * 3 * size * size * 4
    header = {
        "labels": {"dtype": "I64", "shape": [ipc], "data_offsets": [0, labels]},
        "images": {"dtype": "F32", "shape": [ipc, 3, size, size], "data_offsets": [labels, labels + images]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (tmp_path / "synthetic_set.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + labels + images)
    (tmp_path / "card.json").write_text(json.dumps(asdict(card)))

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    dataset = load_set(tmp_path, verify=False)
    image, _ = dataset[len(dataset) - 1]
    assert image.shape == (3, size, size)
    assert resident() - before < 100e6


def test_an_interrupted_write_keeps_the_last_set(tmp_path, monkeypatch):
    card = a_card()
    pixels, labels = a_set(card)
    write_set(tmp_path / "s", pixels, labels, card)
    other = a_set(card, seed=1)[0]

    real = Path.rename
    for deadly in (1, 2):  # the process dies before the first or before the second rename
        calls = []

        def rename(self, target, deadly=deadly, calls=calls):
            calls.append(self)
            if len(calls) == deadly:
                raise KeyboardInterrupt
            return real(self, target)

        monkeypatch.setattr(Path, "rename", rename)
        with pytest.raises(KeyboardInterrupt):
            write_set(tmp_path / "s", other, labels, card)
        monkeypatch.setattr(Path, "rename", real)
        assert torch.equal(load_set(tmp_path / "s").pixels(), pixels)

    monkeypatch.setattr(synthetic_set, "_preview", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_set(tmp_path / "s", other, labels, card)
    monkeypatch.undo()
    assert torch.equal(load_set(tmp_path / "s").pixels(), pixels)
    write_set(tmp_path / "s", other, labels, card)
    assert torch.equal(load_set(tmp_path / "s").pixels(), other)
    assert [x.name for x in tmp_path.iterdir()] == ["s"]


def test_a_reader_of_the_old_set_is_not_disturbed_by_a_new_one(tmp_path):
    card = a_card()
    pixels, labels = a_set(card)
    write_set(tmp_path / "s", pixels, labels, card)
    dataset = load_set(tmp_path / "s")
    write_set(tmp_path / "s", a_set(card, seed=1)[0], labels, card)
    assert torch.equal(dataset.pixels(), pixels)
    assert torch.equal(dataset.batch(torch.arange(len(dataset))), expected(pixels, labels, card)[0])


@pytest.mark.parametrize("verify", [True, False])
def test_a_reader_meets_one_whole_set_while_it_is_replaced(tmp_path, verify):
    card = replace(a_card(size=40), steps=0)
    sets = [a_set(card, seed) for seed in range(2)]
    write_set(tmp_path / "s", *sets[0], card)
    done = threading.Event()

    def read(steps):
        while not done.is_set():
            loaded = load_set(tmp_path / "s", verify=verify)
            assert torch.equal(loaded.pixels(), sets[loaded.card.steps % 2][0])
            steps.add(loaded.card.steps)

    with ThreadPoolExecutor(2) as pool:
        seen = [set(), set()]
        readers = [pool.submit(read, steps) for steps in seen]
        try:
            for step in itertools.count(1):
                write_set(tmp_path / "s", *sets[step % 2], replace(card, steps=step))
                if any(reader.done() for reader in readers) or (step >= 60 and min(map(len, seen)) > 5):
                    break
        finally:
            done.set()
        for reader in readers:
            reader.result()
    assert min(map(len, seen)) > 5


def test_a_writer_killed_at_any_time_leaves_a_whole_set(tmp_path, monkeypatch):
    monkeypatch.setattr(cards, "code_commit", lambda: None)
    card = replace(a_card(size=40), steps=0)
    sets = [a_set(card, seed) for seed in range(2)]

    def write(step):
        write_set(tmp_path / "s", *sets[step % 2], replace(card, steps=step))

    def write_on(step):
        torch.set_num_threads(1)  # the threads of the parent are not there
        try:
            for number in itertools.count(step):
                write(number)
        finally:
            os._exit(1)

    started = time.monotonic()
    write(0)
    took, random, cut_short, last = time.monotonic() - started, Random(0), 0, 0
    for kill in itertools.count(1):
        writer = os.fork() or write_on(last + 1)
        time.sleep(random.uniform(0.0, 3 * took) * (1 + kill // 6))  # longer where the machine has become slower
        os.kill(writer, signal.SIGKILL)
        assert os.waitpid(writer, 0)[1] == signal.SIGKILL
        cut_short += len(list(tmp_path.iterdir())) > 1
        loaded = load_set(tmp_path / "s")
        assert loaded.card.steps >= last
        last = loaded.card.steps
        assert torch.equal(loaded.pixels(), sets[last % 2][0])
        if kill >= 12 and cut_short > 0 and last > 0:  # some died within a write, some after one
            break


def test_a_set_is_found_in_a_run_whose_last_write_was_cut_short(tmp_path):
    card = a_card()
    pixels, labels = a_set(card)
    write_set(tmp_path / "synthetic_set", pixels, labels, card)
    (tmp_path / "synthetic_set").rename(tmp_path / ".synthetic_set.previous")
    for path in (tmp_path, tmp_path / "synthetic_set"):
        assert torch.equal(load_set(path).pixels(), pixels)


@pytest.mark.parametrize("call", ["save_file", "flush", "rename"])
def test_a_write_that_fails_leaves_the_last_set_and_nothing_else(tmp_path, monkeypatch, call):
    card = a_card()
    pixels, labels = a_set(card)
    write_set(tmp_path / "s", pixels, labels, card)
    fails = {"save_file": SafetensorError("I/O error: No space left on device")}.get(call, OSError(28, "No space left"))
    calls, rename = [], Path.rename

    def failing(*given):
        calls.append(given)
        if call != "rename" or len(calls) == 2:
            raise fails
        return rename(*given)

    monkeypatch.setattr(*((Path, "rename") if call == "rename" else (synthetic_set, call)), failing)
    with pytest.raises(
        SyntheticSetError, match=r"/s: the set is not written \(.*No space left.*\); an earlier one is kept"
    ):
        write_set(tmp_path / "s", a_set(card, seed=1)[0], labels, card)
    assert [x.name for x in tmp_path.iterdir()] == ["s"]
    assert torch.equal(load_set(tmp_path / "s").pixels(), pixels)


def test_a_tampered_file_is_refused(tmp_path):
    card = a_card()
    pixels, labels = a_set(card)
    write_set(tmp_path / "s", pixels, labels, card)
    file = tmp_path / "s" / "synthetic_set.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(SyntheticSetError, match="SHA-256"):
        load_set(tmp_path / "s")
    assert len(load_set(tmp_path / "s", verify=False)) == len(pixels)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "card.json").unlink(), "card.json is missing"),
        (lambda f: (f / "synthetic_set.safetensors").unlink(), "safetensors is missing"),
        (lambda f: (f / "card.json").write_text("{"), "it is not JSON"),
        (lambda f: (f / "card.json").write_text('{"format_version": 4}'), "format version 4"),
        (lambda f: (f / "card.json").write_text('{"format_version": 1}'), "not a card of format 1"),
    ],
)
def test_what_cannot_be_read_says_what_and_where(tmp_path, spoil, message):
    card = a_card()
    write_set(tmp_path / "s", *a_set(card), card)
    spoil(tmp_path / "s")
    with pytest.raises(SyntheticSetError, match=message) as error:
        load_set(tmp_path / "s")
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"factor": 11000}, r"factor 11000 is not in 1\.\.9: a tile has at least one pixel"),
        (
            {"factor": 8000, "size": 8000},
            r"'images': found float32 \[6, 3, 9, 9\], the card says float32 \[6, 3, 8000, ",
        ),
        ({"ipc": 2 * 10**9}, r"'images': found float32 \[6, 3, 9, 9\], the card says float32 \[6000000000, 3, 9, 9\]"),
        ({"classes": []}, "the labels of classes are not 0, 1, 2, ... in this order"),
        ({"classes": [{"label": label, "name": ""} for label in (0, 2, 1)]}, "the labels of classes are not 0, 1, 2"),
        ({"factor": 0}, "factor: found 0, expected an integer from 1"),
        ({"factor": "9"}, "factor: found '9', expected an integer"),
        ({"size": 9.0}, "size: found 9.0, expected an integer"),
        ({"value_space": "x"}, "value_space: found 'x', expected normalised or unit"),
        ({"value_space": "values"}, "value_space values contradicts no bounds"),
        ({"axes": "time"}, "axes: found 'time', expected both or height or width"),
        ({"width": 11000}, r"'images': found float32 \[6, 3, 9, 9\], the card says float32 \[6, 3, 9, 11000\]"),
        ({"width": 10**7}, "an image has 90000000 pixels, more than 89472681"),
        ({"width": 0}, "width: found 0, expected an integer from 1"),
        ({"bounds": [0.0]}, "bounds: found a list of 1, expected the least and the largest value, or null for either"),
        ({"bounds": [1.0, 0.0]}, "bounds: found a list of 2, expected the least and the largest"),
        ({"bounds": ["0", None]}, r"bounds\[0\]: found '0', expected a finite number"),
        ({"bounds": [0.0, 2.0]}, r"value_space unit contradicts bounds \[0.0, 2.0\]"),
        ({"std": [0.5, None, 1]}, r"std\[1\]: found null, expected a finite number"),
        ({"std": [0.5, 0.0, 1]}, r"std\[1\]: found 0.0, expected a number above 0"),
        ({"std": [0.5]}, "std has 1 values for 3 channels"),
        ({"mean": [1e39, 0, 0]}, r"mean\[0\]: found 1e\+39, expected a number of at most"),
        ({"mean": [0.5] * 4}, "mean has 4 values for 3 channels"),
        ({"padding": [0.5] * 2}, "padding has 2 values for 3 channels"),
        ({"padding": [3e38]}, "padding is not finite after normalisation"),
        ({"decoding": "multi"}, "decoding: found 'multi', expected 'uniform'"),
        ({"steps": -1}, "steps: found -1, expected an integer from 0"),
        ({"complete": "false"}, "complete: found 'false', expected true or false"),
        ({"sha256": "x"}, "sha256: found 'x', expected 64 hex digits"),
        ({"facts": {"x": float("nan")}}, "x: found nan, expected a finite number"),
    ],
)
def test_a_card_that_is_wrong_is_neither_written_nor_read(tmp_path, changed, message):
    """Before any memory is allocated, however large the sizes in it are."""
    card = a_card()
    write_set(tmp_path / "s", *a_set(card), card)
    with pytest.raises(SyntheticSetError, match=f"not written: .*{message}"):
        write_set(tmp_path / "s", *a_set(card), replace(card, **changed))
    assert len(load_set(tmp_path / "s")) == 6
    file = tmp_path / "s" / "card.json"
    content = {**json.loads(file.read_text()), **changed.get("facts", changed)}
    file.write_text(json.dumps({**content, "images_per_class": 0}))  # as if it were not stated
    for verify in (True, False):
        with pytest.raises(SyntheticSetError, match=f"{tmp_path}/s/.*{message}.* copy the set again"):
            load_set(tmp_path / "s", verify=verify)


def test_the_number_of_decoded_images_is_that_of_the_tiles(tmp_path):
    card = a_card(factor=3)
    write_set(tmp_path / "s", *a_set(card), card)
    change_card(tmp_path / "s", images_per_class=17)
    with pytest.raises(SyntheticSetError, match="images_per_class is 17, but ipc and factor give 18"):
        load_set(tmp_path / "s")


@pytest.mark.parametrize("factor", [1, 2])
def test_classes_may_have_different_numbers_of_images(tmp_path, factor):
    card = a_card(factor, ipc=(2, 5, 1))
    pixels, labels = a_set(card)
    assert labels.tolist() == [0, 1, 2, 0, 1, 1, 1, 1]
    written = write_set(tmp_path / "s", pixels, labels, card)
    assert written.format_version == 3 and written.images_per_class == tuple(n * factor**2 for n in (2, 5, 1))
    dataset = load_set(tmp_path / "s")
    assert dataset.card.counts == written.counts == (2, 5, 1) and dataset.card.ipc_text == "1 to 5"
    assert torch.equal(dataset.pixels(), pixels) and torch.equal(dataset.labels, labels.repeat(factor**2))
    assert [len(at) for at in dataset.positions()] == [2, 5, 1]
    soft = torch.nn.functional.one_hot(card.class_of_each_image, 3).float()
    write_set(tmp_path / "soft", pixels, soft, card)
    assert torch.equal(load_set(tmp_path / "soft").labels, soft.repeat(factor**2, 1))


@pytest.mark.parametrize(("ipc", "message"), [
    ((2, 3, 3), "class 1 has 5 images, the card's ipc is 3"),
    ((2, 5), "ipc has 2 numbers for 3 classes"),
    ((2, 5, 0), "ipc"),
    ([], "ipc has 0 numbers for 3 classes"),
])  # fmt: skip
def test_numbers_that_are_not_those_of_the_labels_are_refused(tmp_path, ipc, message):
    card = a_card(ipc=(2, 5, 1))
    pixels, labels = a_set(card)
    write_set(tmp_path / "s", pixels, labels, card)
    with pytest.raises(SyntheticSetError, match=message):
        write_set(tmp_path / "s", pixels, labels, replace(card, ipc=ipc))
    change_card(tmp_path / "s", ipc=ipc, images_per_class=0)
    with pytest.raises(SyntheticSetError, match=message):
        load_set(tmp_path / "s")


def change_card(folder, **changed):
    file = folder / "card.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))


def nan_at(pixels, index):
    changed = pixels.clone()
    changed[index, 0, 0, 0] = torch.nan
    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x.double(), y), r"'images': found float64 \[6, 3, 9, 9\], the card says float32 \[6, 3, 9, 9\]"),
        (lambda x, y: (x[:, :1], y), r"'images': found float32 \[6, 1, 9, 9\], the card says"),
        (lambda x, y: (x[:5], y), r"'images': found float32 \[5, 3, 9, 9\], the card says"),
        (lambda x, y: (x, y[:5]), r"'labels': found int64 \[5\], the card says int64 \[6\]"),
        (lambda x, y: (x, y.float()), r"'labels': found float32 \[6\], the card says int64 \[6\]"),
        (lambda x, y: (x, y.clamp(max=1)), "class 1 has 4 images, the card's ipc is 2"),
        (lambda x, y: (x, y - 1), "the label of image 0 is -1, the card has 3 classes"),
        (lambda x, y: (x, y * 2), "the label of image 2 is 4, the card has 3 classes"),
        (lambda x, y: (nan_at(x, 4), y), "image 4 has pixels that are not finite"),
        (lambda x, y: (x * 3e38, y), "image 0 has pixels that are not finite"),
    ],
)
@pytest.mark.parametrize("chunk", [synthetic_set.CHUNK, 500])
def test_tensors_that_do_not_fit_the_card_are_neither_written_nor_read(tmp_path, monkeypatch, change, message, chunk):
    monkeypatch.setattr(synthetic_set, "CHUNK", chunk)
    card = a_card()
    pixels, labels = a_set(card)
    pixels = pixels.clamp(min=0.1)
    write_set(tmp_path / "s", pixels, labels, card)
    wrong = change(pixels, labels)
    with pytest.raises(SyntheticSetError, match=f"not written: .*{message}"):
        write_set(tmp_path / "s", *wrong, card)
    store(tmp_path / "s", *wrong)
    with pytest.raises(SyntheticSetError, match=f"{TENSORS}: {message}.*copy the set again"):
        load_set(tmp_path / "s")


def store(folder, images, labels, **others):
    save_file({"images": images.contiguous(), "labels": labels.contiguous(), **others}, folder / TENSORS)
    change_card(folder, sha256=sha256_of(folder / TENSORS))


@pytest.mark.parametrize("change", [lambda x: x * 1.03, lambda x: 1 - 2 * x, lambda x: x * torch.nan, lambda x: x * 0])
def test_soft_labels_are_probabilities(tmp_path, change):
    card = a_card()
    pixels, labels = a_set(card)[0], torch.full((6, 3), 1 / 3)
    write_set(tmp_path / "s", pixels, labels, card)
    assert torch.equal(load_set(tmp_path / "s").labels, labels)
    labels[4] = change(torch.tensor([0.1, 0.1, 0.8]))
    message = "the class probabilities of image 4 are not from 0 with the sum 1"
    with pytest.raises(SyntheticSetError, match=message):
        write_set(tmp_path / "s", pixels, labels, card)
    store(tmp_path / "s", pixels, labels)
    with pytest.raises(SyntheticSetError, match=message):
        load_set(tmp_path / "s", verify=False)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_soft_labels_may_be_rounded(tmp_path, kind):
    card = a_card()
    labels = torch.full((6, 3), 1 / 3, dtype=kind)
    assert (labels.float().sum(1) - 1).abs().min() > 2e-4
    write_set(tmp_path / "s", a_set(card)[0], labels, card)
    assert torch.equal(load_set(tmp_path / "s").labels, labels.float())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x" * 999, "does not begin with a header of at most 991 bytes"),
        (b"", "does not begin with a header of at most 0 bytes"),
    ],
)
def test_a_file_that_holds_no_tensors_is_one_line(tmp_path, content, message):
    card = a_card()
    write_set(tmp_path / "s", *a_set(card), card)
    (tmp_path / "s" / TENSORS).write_bytes(content)
    with pytest.raises(SyntheticSetError, match=f"{TENSORS}: it {message}.* copy the set again"):
        load_set(tmp_path / "s", verify=False)


def test_a_tensor_more_is_refused(tmp_path):
    card = a_card()
    write_set(tmp_path / "s", *a_set(card), card)
    store(tmp_path / "s", *a_set(card), more=torch.zeros(1))
    with pytest.raises(SyntheticSetError, match=r"'more': found float32 \[1\], the card says nothing"):
        load_set(tmp_path / "s")


@pytest.mark.parametrize("name", ["card.json", TENSORS])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "not a regular file"),
        (Path.mkdir, "Is a directory|not a regular file"),
        (lambda file: file.symlink_to("/dev/zero"), "not a regular file"),
        (lambda file: file.symlink_to(file), "is missing|not a regular file"),
        (lambda file: file.hardlink_to(file.with_name("preview.png")), "UTF-8|header of at most"),
    ],
)
def test_only_regular_files_are_opened(tmp_path, name, make, message):
    card = a_card()
    write_set(tmp_path / "s", *a_set(card), card)
    (tmp_path / "s" / name).unlink()
    make(tmp_path / "s" / name)
    with pytest.raises(SyntheticSetError, match=f"{name}.*({message})"):
        load_set(tmp_path / "s")


def test_the_folder_and_its_files_may_be_links(tmp_path):
    """As in the cache of Hugging Face's hub."""
    card = a_card()
    write_set(tmp_path / "blobs", *a_set(card), card)
    (tmp_path / "run" / "synthetic_set").mkdir(parents=True)
    for name in ("card.json", TENSORS):
        (tmp_path / "run" / "synthetic_set" / name).symlink_to(tmp_path / "blobs" / name)
    (tmp_path / "link").symlink_to(tmp_path / "run")
    assert len(load_set(tmp_path / "link")) == 6


@pytest.mark.parametrize("path", ["\0", "/", "x" * 5000, "~nobody-of-this-name/set", "/dev/zero", "/dev/zero/set"])
def test_a_path_without_a_set_is_one_line(path):
    with pytest.raises(SyntheticSetError, match="no synthetic set at"):
        load_set(path)


@pytest.mark.parametrize("soft", [False, True])
def test_what_exceeds_the_memory_is_refused_before_it_is_read(tmp_path, monkeypatch, soft):
    card = a_card(factor=9)
    pixels, labels = a_set(card)
    write_set(tmp_path / "s", pixels, torch.full((6, 3), 1 / 3) if soft else labels, card)
    monkeypatch.setattr(synthetic_set, "memory_and_swap", lambda: 81 * 6 * 3 * 4)
    if soft:
        dataset = load_set(tmp_path / "s")
        with pytest.raises(SyntheticSetError, match="486 decoded images need"):
            dataset.batch(torch.arange(len(dataset)))
        assert len(dataset.batch(torch.arange(2))) == 2
        monkeypatch.setattr(synthetic_set, "memory_and_swap", lambda: 81 * 6 * 3 * 4 - 1)
        with pytest.raises(SyntheticSetError, match="the labels of 81 tiles need"):
            load_set(tmp_path / "s")
    else:
        assert len(load_set(tmp_path / "s")) == 486


@pytest.mark.parametrize("value_space", ["unit", "normalised"])
def test_a_set_is_decoded_into_one_copy(tmp_path, monkeypatch, value_space):
    card = a_card(factor=2, value_space=value_space)
    write_set(tmp_path / "s", *a_set(card), card)
    dataset = load_set(tmp_path / "s")
    every = torch.arange(len(dataset))
    together = dataset.batch(every)
    monkeypatch.setattr(synthetic_set, "CHUNK", 5 * prod(card.shape))  # 24 images in chunks of five
    monkeypatch.setattr(synthetic_set, "memory_and_swap", lambda: together.nbytes)
    assert torch.equal(dataset.batch(every), together)
    assert dataset.batch(every[:0]).shape == (0, *card.shape)
    monkeypatch.setattr(synthetic_set, "memory_and_swap", lambda: together.nbytes - 1)
    with pytest.raises(SyntheticSetError, match="24 decoded images need"):
        dataset.batch(every)


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_loader_with_workers_gives_the_same_images(tmp_path, start):
    card = a_card(factor=2)
    write_set(tmp_path / "s", *a_set(card), card)
    dataset = load_set(tmp_path / "s")
    loader = DataLoader(dataset, batch_size=5, num_workers=2, multiprocessing_context=start)
    batches = list(loader)
    assert torch.equal(torch.cat([x for x, _ in batches]), dataset.batch(torch.arange(len(dataset))))
    assert torch.equal(torch.cat([y for _, y in batches]), dataset.labels)


def test_copies_and_pickles_read_the_same(tmp_path):
    card = a_card()
    write_set(tmp_path / "s", *a_set(card), card)
    dataset = load_set(tmp_path / "s")
    for other in (copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset))):
        assert torch.equal(other[3][0], dataset[3][0])


def test_the_preview_is_the_clipped_set_by_label(tmp_path):
    card = a_card(size=9, channels=1, ipc=2, classes=3, value_space="normalised")
    pixels, labels = a_set(card)
    for label, value in enumerate((-50.0, 50.0, 0.0)):  # 0 is the mean
        pixels[labels == label] = value
    write_set(tmp_path / "s", pixels, labels, card)
    image = Image.open(tmp_path / "s" / "preview.png")
    assert image.size == (2 * 126 + 2, 3 * 126 + 4)  # 9 px fourteen times
    assert [image.getpixel((0, row * 128)) for row in range(3)] == [0, 255, round(0.3 * 255)]


def test_load_set_stands_at_the_top_and_imports_neither_the_cluster_nor_silence():
    code = (
        "import logging, sys, warnings, dist_condense\n"
        "from dist_condense.result import progress, report\n"
        "from dist_condense.result.tracking import replay, tracker\n"
        "dist_condense.load_set\n"
        "assert not {'ray', 'mlflow', 'hydra', 'matplotlib', 'jinja2'} & set(sys.modules)\n"
        "assert not logging.getLogger('PIL').level and not [x for x in warnings.filters if 'PIL' in str(x)]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
