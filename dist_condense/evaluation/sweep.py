"""Evaluation on a Ray cluster, with one Ray Tune trial per network; the only file of this package that imports Ray.

Tune only places and runs the trials, without scheduler, search, or stopping on test results. Images are sent once, as
numpy arrays in the object store, which the trials of a node read without copying.

Trials inherit the environment of their node. Tune is prevented from adding the driver's AWS keys to the runtime_env of
each trial, because a runtime_env is visible in command lines, logs and the dashboard.
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
from dist_condense.system import plugins


def sweep(
    trials: Sequence[Trial],
    evaluation: Evaluation,
    on_result: Callable[[Row], None],
    *,
    folder: Path,
    cpus_per_trial: int = 1,
    gpus_per_trial: float = 0,
) -> list[Row]:
    """Run every trial on the cluster and return the rows, in the order of the trials.

    :param on_result: called in this process with each row as soon as its trial has finished.
    :param folder: folder for Tune's records, shared by all nodes.
    :param cpus_per_trial: CPUs that are reserved for a trial, and torch's number of threads in it.
    :param gpus_per_trial: GPUs that are reserved for a trial; a fraction shares a GPU without dividing its memory.
    :raises TrialFailed: some trials have no row; raised, with the reasons, after all other trials have finished.
    """
    connect()
    class_cache.ENV_VARS_TO_PROPAGATE.clear()
    delivery = Delivery(on_result)
    function = tune.with_parameters(
        _run,
        trials=list(trials),
        evaluation=_exchange(evaluation, _to_numpy),
        threads=cpus_per_trial,
        modules=[plugin.module for plugin in plugins.loaded()],
    )
    results = tune.Tuner(
        tune.with_resources(function, {"cpu": cpus_per_trial, "gpu": gpus_per_trial}),
        param_space={"trial": tune.grid_search(list(range(len(trials))))},
        tune_config=tune.TuneConfig(reuse_actors=True),  # a new process takes 10 s, and trials keep no state
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
    """Tune callback that passes each row to ``on_result`` as soon as its trial reports it, so that no result is lost.

    It runs in the driver.
    """

    def __init__(self, on_result: Callable[[Row], None]) -> None:
        self.on_result = on_result
        self.rows: dict[int, Row] = {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Pass the row of a trial to ``on_result``; called by Tune."""
        row = Row(**result["row"])
        self.on_result(row)  # Tune attributes an error of this call to the trial, which then has no row
        self.rows[trial.config["trial"]] = row

    def __reduce__(self) -> tuple[type[Delivery], tuple[Callable[[Row], None]]]:
        # Tune pickles its callbacks with its records; files and clients of on_result need not be picklable.
        return Delivery, (_ignore,)


def _ignore(row: Row) -> None:
    """Ignore a row; replaces ``on_result`` in the copy of a Delivery that Tune stores in its records."""


def _run(
    config: dict[str, Any], trials: list[Trial], evaluation: Evaluation, threads: int, modules: Sequence[str]
) -> None:
    """Run one trial in a process of the cluster and report its row to Tune.

    :param config: Tune's parameters; ``trial`` is the index of the trial.
    :param modules: plug-ins that the driver has loaded.
    """
    plugins.load_only(modules)
    torch.set_num_threads(threads)
    row = run_trial(trials[config["trial"]], _exchange(evaluation, _to_tensor))
    tune.report({"row": asdict(row)})


def _exchange(evaluation: Evaluation, convert: Callable[[Any], Any]) -> Evaluation:
    """Return the evaluation with ``convert`` applied to all images and labels."""
    sets = {
        name: replace(each, images=convert(each.images), labels=convert(each.labels))
        for name, each in evaluation.sets.items()
    }
    return replace(evaluation, sets=sets, test=evaluation.test.mapped(convert))


def _to_numpy(tensor: torch.Tensor) -> Any:
    return tensor.detach().cpu().contiguous().numpy()


def _to_tensor(array: Any) -> torch.Tensor:
    with warnings.catch_warnings():  # the object store is read-only, and no code here writes to it
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)


def _check(trials: Sequence[Trial], rows: dict[int, Row], results: Any) -> None:
    """Raise TrialFailed if trials have no row, because Tune's fit() raises for neither failed nor unstarted trials."""
    errors = {i: result.error for i, result in enumerate(results) if result.error}
    missing = {trial: _last_line(errors.get(i)) for i, trial in enumerate(trials) if i not in rows}
    if missing:
        raise TrialFailed.of(missing, len(trials))


def _last_line(error: Exception | None) -> str:
    lines = str(error).strip().splitlines() if error else []
    return lines[-1] if lines else "stopped before it finished"
