"""Rates are recovered exactly, stored in a file, and refused for another config than the measured one."""

import json
from dataclasses import asdict, replace

import pytest
import torch

from dist_condense.planning.peak import peak
from dist_condense.planning.rates import VERSION, fitted, lacking, read
from dist_condense.settings.config import ConfigError
from dist_condense.system.peak_bytes import PeakBytes
from tests.planning.cases import LOAD, RATES


def test_rates_are_found_again():
    rows = [(1, 1, 64, 16), (1, 2, 128, 32), (1, 1, 32, 16), (1, 1, 64, 4)]
    seconds = [1 + 2 * n + 0.25 * r + 0.5 * s for _, n, r, s in rows]
    assert fitted(rows, seconds) == pytest.approx([1, 2, 0.25, 0.5])


def test_no_rate_is_below_zero():
    found = fitted([(1, 1), (1, 2)], [3, 2.9])
    assert min(found) >= 0 and found[0] + found[1] == pytest.approx(2.95, rel=0.02)


def test_a_file_gives_the_same(tmp_path):
    kept = replace(RATES, compared={"network.width": 8, "augmentation.one_of": ["crop"]}, training=None)
    kept.write(tmp_path / "rates.json")
    assert read(tmp_path / "rates.json", kept.compared) == kept


def test_a_file_of_an_earlier_version_is_read_and_one_of_a_later_version_refused(tmp_path):
    file, new = tmp_path / "rates.json", ("version", "share", "operations", "matrix_rate", "spread", "others")
    old = {name: value for name, value in asdict(RATES).items() if name not in new}
    file.write_text(json.dumps(old))
    assert read(file, {}) == RATES
    file.write_text(json.dumps(asdict(RATES) | {"version": VERSION + 1}))
    with pytest.raises(ConfigError, match=f"version: found {VERSION + 1}, expected a version from 1 to {VERSION}"):
        read(file, {})


def test_another_network_is_refused_with_every_difference(tmp_path):
    replace(RATES, compared={"network.width": 8, "dataset.size": 32}).write(tmp_path / "rates.json")
    with pytest.raises(ConfigError) as refused:
        read(tmp_path / "rates.json", {"network.width": 16, "dataset.size": 64})
    assert len(refused.value.problems) == 2 and "network.width is 8 there, 16 here" in str(refused.value)


@pytest.mark.parametrize("text", [None, "", "{}", "[1]", '{"alone": {"step": 1}}'])
def test_what_is_no_file_of_rates_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "rates.json").write_text(text)
    with pytest.raises(ConfigError, match=r"rates.json.*: .*; it is not one that plan saved"):
        read(tmp_path / "rates.json", {})


def test_a_stated_rate_scales_all_that_is_computed():
    found = RATES.scaled(40.0)  # 10 times as fast as 4 a second
    assert (found.alone.real, found.alone.step, found.updating.own) == pytest.approx((0.025, 0.1, 0.025))
    assert found.shared.synthetic == pytest.approx(0.1) and found.draw == RATES.draw and found.stated == 40
    assert replace(RATES, shared=None).scaled(40.0).shared is None
    with pytest.raises(ConfigError, match="measure again"):
        replace(RATES, alone=replace(RATES.alone, real=0.0)).scaled(40.0)
    with pytest.raises(ConfigError, match="--rate: needs rates of matching"):
        replace(RATES, alone=None).scaled(40.0)


def test_what_was_not_measured_is_told():
    less, work = replace(RATES, alone=None, shared=None, updating=None), replace(LOAD, shared_steps=1, updates={8: 1})
    assert list(lacking(RATES, work)) == list(lacking(less, replace(LOAD, steps=0))) == []
    words = ("without matching;", "method.grouping", "matching_steps")
    assert [word in line for word, line in zip(words, lacking(less, work), strict=True)] == [True] * 3


def test_the_peak_counts_what_is_alive_at_once():
    with PeakBytes() as counted:
        kept = torch.zeros(1024)
        kept.view(32, 32)[0].add_(1)  # no new memory
        for _ in range(3):
            kept = kept + 1  # the old one and the new one
    assert counted.most == 2 * 4096


def test_the_peak_sees_a_double_backward():
    def use(images):
        def loss(x):
            return torch.func.grad(lambda y: (y**2).sum())(x).square().sum()

        torch.func.grad(loss)(torch.ones(images, 256))

    found = peak(use)
    assert found.image >= 3 * 1024 and found.bytes(16) == found.base + 16 * found.image
