"""Trials on a Ray cluster, one Ray Tune trial each; the only file of this package that knows Ray.

Tune only places and runs them: no scheduler, no search, no stopping on test results. Images travel once, as numpy
arrays in the object store, which the trials of a node read without copying.

Trials inherit the environment of their node. Tune would give them AWS keys of the driver's besides, as part of each
trial's runtime_env, which stands in command lines, logs and the dashboard; it is kept from that.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.tune.execution import class_cache

from dist_condense.engine.ray.group import connect
from dist_condense.evaluation.evaluate import Evaluation, Trial, TrialFailed, run_trial
from dist_condense.evaluation.rows import Row


def sweep(
    trials: Sequence[Trial],
    evaluation: Evaluation,
    on_result: Callable[[Row], None],
    *,
    folder: Path,
    cpus_per_trial: int = 1,
    gpus_per_trial: float = 0,
) -> list[Row]:
    """Run every trial and hand over its row as soon as it is there, in this process; then the rows in order.

    :param folder: where Tune keeps its records; with several nodes, one that all of them see.
    :param gpus_per_trial: a fraction lets trials share a GPU but does not divide its memory.
    :raises TrialFailed: after all others have finished, naming each that has no row, and why.
    """
    connect()
    class_cache.ENV_VARS_TO_PROPAGATE.clear()
    delivery = Delivery(on_result)
    function = tune.with_parameters(
        _run, trials=list(trials), evaluation=_exchange(evaluation, _to_numpy), threads=cpus_per_trial
    )
    results = tune.Tuner(
        tune.with_resources(function, {"cpu": cpus_per_trial, "gpu": gpus_per_trial}),
        param_space={"trial": tune.grid_search(list(range(len(trials))))},
        tune_config=tune.TuneConfig(reuse_actors=True),  # a new process takes 10 s, and trials share no state
        run_config=tune.RunConfig(
            storage_path=str(folder.absolute()),
            failure_config=tune.FailureConfig(max_failures=0),
            callbacks=[delivery],
            verbose=0,
        ),
    ).fit()
    _check(trials, delivery.rows, results)
    return [delivery.rows[i] for i in range(len(trials))]


class Delivery(tune.Callback):
    """Hands over rows in the driver as trials report them, so that a finished one is never lost."""

    def __init__(self, on_result: Callable[[Row], None]) -> None:
        self.on_result = on_result
        self.rows: dict[int, Row] = {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Called by Tune."""
        row = Row(**result["row"])
        self.on_result(row)  # Tune takes its error for the trial's: then there is no row
        self.rows[trial.config["trial"]] = row

    def __reduce__(self) -> tuple[type[Delivery], tuple[Callable[[Row], None]]]:
        # Tune pickles its callbacks with its records; what on_result holds (files, clients) need not allow that.
        return Delivery, (_ignore,)


def _ignore(row: Row) -> None:
    """For a Delivery that is only kept in Tune's records."""


def _run(config: dict[str, Any], trials: list[Trial], evaluation: Evaluation, threads: int) -> None:
    """In the worker."""
    torch.set_num_threads(threads)
    row = run_trial(trials[config["trial"]], _exchange(evaluation, _to_tensor))
    tune.report({"row": asdict(row)})


def _exchange(evaluation: Evaluation, convert: Callable[[Any], Any]) -> Evaluation:
    """The same evaluation with every array converted."""
    sets = {
        name: replace(chosen, images=convert(chosen.images), labels=convert(chosen.labels))
        for name, chosen in evaluation.sets.items()
    }
    return replace(evaluation, sets=sets, test=evaluation.test.mapped(convert))


def _to_numpy(tensor: torch.Tensor) -> Any:
    return tensor.detach().cpu().contiguous().numpy()


def _to_tensor(array: Any) -> torch.Tensor:
    with warnings.catch_warnings():  # the object store is read-only, and nothing here writes to it
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)


def _check(trials: Sequence[Trial], rows: dict[int, Row], results: Any) -> None:
    """fit() raises neither for failed trials nor for those that an interrupt left out."""
    errors = {i: result.error for i, result in enumerate(results) if result.error}
    missing = {trial: _last_line(errors.get(i)) for i, trial in enumerate(trials) if i not in rows}
    if missing:
        raise TrialFailed.of(missing, len(trials))


def _last_line(error: Exception | None) -> str:
    lines = str(error).strip().splitlines() if error else []
    return lines[-1] if lines else "stopped before it finished"
