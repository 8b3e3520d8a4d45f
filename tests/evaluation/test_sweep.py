"""Rows of the Ray sweep that cannot be stored; the sweep itself is tested in tests/cluster/test_ray_tasks.py."""

from types import SimpleNamespace

import pytest

from dist_condense.evaluation.sweep import Delivery


def test_a_row_that_nobody_could_keep_is_missing():
    """Tune attributes an error of its callbacks to the trial, and continues."""
    row = {"set": "a", "protocol": "dc", "architecture": "mlp", "seed": 0, "epochs": 1, "top1_last": 1, "top1_best": 1}
    delivery = Delivery(lambda row: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        delivery.on_trial_result(1, [], SimpleNamespace(config={"trial": 0}), {"row": row})
    assert delivery.rows == {}
