"""Condensation of data in memory, as a function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from dist_condense.api.collecting import Collected, both, written
from dist_condense.evaluation.rows import Row, read_csv
from dist_condense.job.job import Job
from dist_condense.result.synthetic_set import SyntheticDataset, load_set
from dist_condense.settings import config as configs
from dist_condense.settings import images_per_class, recipes
from dist_condense.settings.config import ConfigError, RunConfig
from dist_condense.settings.keys import RECIPE, leaves
from dist_condense.settings.run_folder import RunFolder
from dist_condense.system import plugins, terminal
from dist_condense.system.conversion import shown

DATA = "data"
"""Folder with the data in the folder of a run."""
OUTPUTS = Path("outputs")
PHOTOGRAPH = 64
"""Smallest side in pixels of colour images that are taken for photographs, for which some methods have own settings."""
PHOTOGRAPHS = ((100, "_photographs100"), (0, "_photographs"))
"""Least number of classes, and the ending of the name of a recipe for photographs."""
OWN = ("dataset.name", "dataset.root")
"""Keys that :func:`condense` sets itself."""


@dataclass(frozen=True)
class Result:
    """A finished run.

    :param folder: folder of the run, with its config, metrics, set, scores and report.
    """

    folder: Path

    @cached_property
    def dataset(self) -> SyntheticDataset:
        """The synthetic set: a torch data set of normalised images and labels, see :func:`dist_condense.load_set`."""
        return load_set(self.folder)

    @property
    def scores(self) -> list[Row]:
        """Accuracies of the networks that were trained on the set, and on sets for comparison."""
        return read_csv(RunFolder(self.folder).evaluation)


def condense(
    train: Any,
    test: Any = None,
    *,
    method: str = "idc",
    ipc: int | Mapping[str, int] = 10,
    output: str | Path | None = None,
    **keys: Any,
) -> Result:
    """Condense data in memory, evaluate the synthetic set and return both; the same call continues a stopped run.

    The data are written once to a file in the folder of the run, which every worker reads. The published number of
    steps takes hours of a GPU: ``trajectory={"networks": 20}`` makes a run short, and ``dist-condense plan`` on the
    ``config.yaml`` of the folder estimates its time. Plug-ins are loaded that are installed or named by the environment
    variable ``DIST_CONDENSE_PLUGINS`` (docs/extending.md).

    :param train: training images and labels, see :func:`dist_condense.api.collecting.collected`. Floats that are bytes
        divided by 255, as ToTensor makes them, are stored as these bytes.
    :param test: test images and labels; None: no evaluation.
    :param method: name of a recipe (``dist-condense list``). Colour images of at least 64 px have a method's settings
        for photographs, where it has some.
    :param ipc: number of images per class; or numbers by the name of the class, where ``"*"`` stands for all others.
    :param output: folder of the run; None: a folder in ``outputs`` whose name follows from the data and the settings.
    :param keys: keys of docs/config.md; those of a section are a dict, ``cluster={"workers": 2}``.
    :raises DataError: the data have another form than described.
    :raises ConfigError: settings or plug-ins have problems, all of which are listed; nothing was started.
    :raises RunFailed: the run failed; its last good state is kept.
    """
    load_plugins()
    images, *others = both(train, test)
    tested = next(iter(others), None)
    place = {} if output is None else {"output": output}
    given = {key: plain(value) for key, value in leaves({"ipc": ipc, **place, **keys})}
    config = _config(method, images, given, is_tested=tested is not None)
    if output is None:
        number = images_per_class.text(config).replace(" ", "")
        output = OUTPUTS / f"{method}_ipc{number}_{_fingerprint(config, images, tested)}"
    folder = Path(output).expanduser().absolute()
    with written(images, tested, folder / DATA) as file:
        config.output, config.dataset.root = str(folder), str(file)
        if problem := _other_scores(RunFolder(folder), file):
            raise ConfigError([f"output: {problem}"])
        job = Job.prepare(config)
    if tested is None and "evaluation.epochs" not in given:
        terminal.say("note: there are no test images, so no network is trained on the set; give test for scores")
    job.run()
    return Result(folder)


def _other_scores(files: RunFolder, data: Path) -> str | None:
    """Return a problem if the folder has scores of other data, whose rows do not tell on which images they were tested.

    :param data: file with the data of this call, whose name follows from their content.
    """
    if not files.evaluation.exists() or not files.config.exists():
        return None
    before = Path(configs.read(files.config).dataset.root or "no file").name
    return None if before == data.name else f"{files.path} has scores of other data ({before}); give another output"


def _config(method: str, images: Collected, given: dict[str, Any], is_tested: bool) -> RunConfig:
    """Return the config of a recipe with the user's keys. Raises ConfigError."""
    problems = [f"{key}: the data set it; `dist-condense run` is for data elsewhere" for key in given if key in OWN]
    if not is_tested and given.get("evaluation.epochs"):
        problems.append("evaluation.epochs: there are no test images; give test")
    if problems:
        raise ConfigError(problems)
    own = {"dataset.name": "arrays", **({} if is_tested else {"evaluation.epochs": 0})}
    recipe = configs.load(str(configs.shipped() / RECIPE / f"{_recipe(method, images)}.yaml"))
    config = configs.from_dict(dict(leaves(configs.to_dict(recipe))) | own | given)
    if "method.name" not in given:
        config.method.name = recipes.named(recipe.method.name, config, configs.shipped())
    return config


def load_plugins() -> None:
    """Load the plug-ins that are installed or named by the environment. Raises ConfigError."""
    try:
        plugins.load()
    except plugins.PluginError as error:
        raise ConfigError(error.problems) from error


def plain(value: Any) -> Any:
    """Return the number in a scalar of numpy, the text of a path, a mapping as a dict, any other value as it is.

    The keys of a dict that are integers, as the labels of arrays, become texts, as the names of these classes are.
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {
            str(key) if type(key) is int else key: plain(item)
            for key, item in ((plain(key), item) for key, item in value.items())
        }
    return str(value) if isinstance(value, Path) else value


def _recipe(method: str, images: Collected) -> str:
    """Return the name of the recipe of a method for such images. Raises ConfigError if there is none."""
    known = {file.stem for file in (configs.shipped() / RECIPE).glob("*.yaml")}
    if not isinstance(method, str) or method not in known:
        raise ConfigError([f"method: {shown(method)} is not one of {', '.join(sorted(known))}"])
    channels, *sides = images.images.shape[1:]
    if channels == 1 or min(sides) < PHOTOGRAPH:
        return method
    classes = len(np.unique(images.labels))
    fitting = (f"{method}{ending}" for least, ending in PHOTOGRAPHS if classes >= least)
    return next((name for name in fitting if name in known), method)


def _fingerprint(config: RunConfig, *splits: Collected | None) -> str:
    """Return a short text that follows from the settings that change the set, and from the data."""
    plain_values = {key: sorted(x.items()) if isinstance(x, dict) else x for key, x in configs.identity(config).items()}
    digest = sha256(repr(sorted(plain_values.items())).encode())
    for split in splits:
        if split is not None:
            digest.update(split.digest())
    return digest.hexdigest()[:10]
