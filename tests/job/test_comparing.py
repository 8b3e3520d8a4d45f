"""Before the networks are trained, a note says if those of the full set get less than half the updates."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dist_condense.commands import cli
from dist_condense.evaluation import training

KEYS = ("trajectory.networks=1", "network.width=4", "network.depth=1", "cluster.workers=0", "method.real_batch=8")
EVALUATION = ("evaluation.sets=[condensed,full]", "evaluation.seeds=1", "evaluation.epochs=30")


def evaluated(output: Path, full_epochs: int) -> None:
    given = [*KEYS, *EVALUATION, f"evaluation.full_epochs={full_epochs}", "tracking.uri=http://127.0.0.1:9"]
    assert cli.main(["run", "configs/digits.yaml", *given, f"output={output}"]) == 0


def test_fewer_updates_on_the_full_set_are_noted_with_the_epochs_that_suffice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    run_epoch = training.Course.run_epoch

    def counting(self: training.Course, epoch: int, factor: float) -> None:
        counted.append(len(self.labels.split(self.protocol.batch)))
        run_epoch(self, epoch, factor)

    monkeypatch.setattr(training.Course, "run_epoch", counting)
    evaluated(tmp_path, 1)
    said = capsys.readouterr().err
    [(own, most, epochs)] = re.findall(
        r"note: full is trained for (\d+) updates, condensed for (\d+); set evaluation.full_epochs=(\d+) to", said
    )
    assert said.index("full is trained") < said.index("condensed, convnet")
    assert (sum(counted[31:]), sum(counted[:31])) == (int(own), int(most))
    batches = counted[-1]
    assert batches * (int(epochs) + 1) >= int(most) > batches * int(epochs)
    evaluated(tmp_path, 1)  # nothing is trained
    evaluated(tmp_path, 2)  # 18 updates are more than half of 31
    assert "full is trained" not in capsys.readouterr().err
