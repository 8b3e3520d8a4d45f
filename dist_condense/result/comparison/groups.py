"""Groups of runs that differ only in their condensation seeds, and the statistics of each group."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from math import fsum, sqrt
from statistics import fmean, stdev
from typing import Any, NamedTuple

from dist_condense.result.comparison.runs import Digests, Run
from dist_condense.result.difference import mean_of, paired
from dist_condense.result.markdown import one_line
from dist_condense.result.summary import RANDOM
from dist_condense.settings import keys
from dist_condense.settings.identity import identity
from dist_condense.settings.keys import KEYS
from dist_condense.settings.schema import CONDENSED, RunConfig
from dist_condense.settings.values import ConfigError, meant, shown
from dist_condense.system.errors import listed

METHOD, SETTINGS = "method", "settings"
TRAINING = ("architecture", "protocol", "epochs")
"""Columns of evaluation.csv that are equal in all networks of a group."""
NAMES = (METHOD, "dataset", "ipc", *TRAINING)
"""Values by which runs can be compared besides the keys of their configs."""
DIGESTS = tuple(field.name for field in fields(Digests))
TEST_FILES = ("dataset.test_fraction", "dataset.orientation", "dataset.columns", "test_data")
"""Settings and digests that determine the test images."""
TEST = ("dataset", "classes", "shape", "root", *TEST_FILES, "protocol", "epochs")
"""Values without which the top-1 of two rows cannot be compared: the test images, and how networks are trained."""
TOLD_BY_DATASET = ("classes", "shape", "root")
NO_SETTINGS = ("seed", "ipc", "compute.")
"""Prefixes of keys that do not divide a group: the seed, a value of its own, and what changes the last bits only."""
PRECISION = ("compute.autocast", "compute.tf32")
"""Keys with such a prefix that divide a group all the same, because they change more than the last bits."""
DERIVED = ("dataset.channels", "dataset.bounds", "dataset.mean", "dataset.std")
"""Settings that a run may derive from its training images."""
LONGEST = 60
"""Largest number of characters of a text on the terminal."""
DIGEST = 12
"""Number of characters of a hash in a table."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Networks of one architecture that were trained on the set of one run."""

    run: Run
    training: Sequence[str]
    """Values of :data:`TRAINING`."""
    top1: Mapping[int, float]
    """Top-1 in percent after the last epoch, by the seed of the network."""
    random: Mapping[int, float]
    """The same of networks trained on random images in the same run, with equal protocol and epochs."""

    @property
    def mean(self) -> float:
        """Mean top-1 over the networks."""
        return fmean(self.top1.values())

    @property
    def differences(self) -> list[float]:
        """Difference in top-1 between the two networks of each seed, the set's minus that of random images."""
        return paired(self.top1, self.random)


class OverRandom(NamedTuple):
    """Difference in top-1, in points, between networks that are trained on the set and on random images."""

    mean: float
    error: float | None
    """Standard error of the mean; None for one pair of networks."""
    seeds: int
    """Number of condensation seeds with pairs of networks."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """A row of the comparison: runs with equal settings, one per condensation seed."""

    values: Mapping[str, str]
    """Texts by name: of the key of the comparison, of :data:`NAMES`, and of the test images."""
    settings: Mapping[str, str]
    """Values of the keys that determine a set, by key, and the hashes :data:`DIGESTS` that are recorded."""
    members: Sequence[Trained]

    @property
    def mean(self) -> float:
        """Mean top-1 over condensation seeds of the mean over networks."""
        return fmean(member.mean for member in self.members)

    @property
    def std_seeds(self) -> float | None:
        """Sample standard deviation over condensation seeds of the mean over networks; None for one seed."""
        return _std([member.mean for member in self.members])

    @property
    def std_networks(self) -> float | None:
        """Sample standard deviation over networks, pooled over condensation seeds; None for one network per seed."""
        freedom = sum(len(member.top1) - 1 for member in self.members)
        squares = ((x - member.mean) ** 2 for member in self.members for x in member.top1.values())
        return sqrt(fsum(squares) / freedom) if freedom else None

    @property
    def networks(self) -> int:
        """Number of networks, over all condensation seeds."""
        return sum(len(member.top1) for member in self.members)

    @property
    def over_random(self) -> OverRandom | None:
        """Difference to random images; None if there is no pair of networks.

        The differences of each condensation seed are averaged first, because its networks share the set; the error is
        that of the mean over seeds, and for a single seed that of the mean over its networks.
        """
        own = [member.differences for member in self.members if member.differences]
        found = mean_of(own[0] if len(own) == 1 else [fmean(differences) for differences in own])
        return None if found is None else OverRandom(*found, seeds=len(own))

    @property
    def hours(self) -> float | None:
        """Mean process hours of a run; None if a run has no record of them."""
        hours = [member.run.hours for member in self.members]
        known = [x for x in hours if x is not None]
        return fmean(known) if len(known) == len(hours) else None

    @property
    def size(self) -> float:
        """Mean number of bytes of a set."""
        return fmean(member.run.size for member in self.members)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Groups of runs, at least one, and the columns that tell them apart."""

    by: str
    groups: Sequence[Group]
    notes: Sequence[str] = ()

    @property
    def columns(self) -> list[str]:
        """The key of the comparison, then the names of the other values that are not equal in all groups."""
        return [self.by, *(name for name in self.groups[0].values if name != self.by and self.differs(name))]

    def labels(self) -> list[dict[str, str]]:
        """Return the texts of each group by column.

        If groups have equal values, a column ``settings`` has the keys that tell them apart. The texts have neither
        hidden characters nor secrets.
        """
        differing = [self._settings(group) for group in self.groups]
        labels = []
        for group, settings in zip(self.groups, differing, strict=True):
            texts = {name: group.values[name] for name in self.columns}
            texts |= {SETTINGS: settings} if any(differing) else {}
            labels.append({name: one_line(text) for name, text in texts.items()})
        return labels

    @property
    def caption(self) -> str:
        """The values that are equal in all groups, in one line."""
        equal = {name: x for name, x in self.groups[0].values.items() if x and not self.differs(name)}
        return ", ".join(
            f"{name} {cut(one_line(x))}" for name, x in equal.items() if name not in (self.by, *TOLD_BY_DATASET)
        )

    def differs(self, name: str) -> bool:
        """Return whether groups have different values of this name, which is one of their values or settings.

        Groups without this setting are ignored.
        """
        return _differ([{**group.settings, **group.values} for group in self.groups], name)

    def _settings(self, group: Group) -> str:
        """Return the settings that tell a group from those with equal values, the :data:`DERIVED` ones last."""
        others = [other.settings for other in self.groups if other.values == group.values]
        differing = [key for key in group.settings if _differ(others, key)]
        given, derived = ([key for key in differing if (key in DERIVED) == last] for last in (False, True))
        images = [key for key in given if key.startswith("dataset.") or key in DIGESTS]
        kept = given if _follow(derived, images, others) else [*given, *derived]
        return " ".join(f"{key}={group.settings[key][: DIGEST if key in DIGESTS else None]}" for key in kept)


def check_key(by: str) -> None:
    """Check that runs can be compared by a key. Raises ConfigError, with the choices."""
    if by not in NAMES and by not in KEYS:
        known = f"{', '.join(NAMES)}, or a key of docs/config.md such as trajectory.networks"
        raise ConfigError([f"--by: {shown(by)} is unknown; choose one of {known}{meant(by, [*NAMES, *KEYS])}"])


def compared(runs: Sequence[Run], by: str = METHOD, notes: Sequence[str] = ()) -> Comparison:
    """Group the networks that were trained on the runs' sets.

    Runs are in one group only if they differ in nothing but the seed: neither in the settings that determine the set,
    nor in the images, nor in the training of the networks, nor in whether the set is complete. Images are different if
    their recorded hashes are; a run without hashes is in the first group with its values and settings. If several runs
    have the same seed, the first one counts, and a complete set before one that is not.

    :param by: a name of :data:`NAMES`, or a key of the config.
    :param notes: notes on the runs that are before those of the comparison.
    :raises ConfigError: the key is unknown, or no network was trained on the set of any run.
    """
    check_key(by)
    unfinished = [run for run in runs if not run.card.complete]
    partial = [f"{run.folder}: the set is not complete (step {run.card.steps})" for run in unfinished]
    groups, repeated = _grouped([*chain.from_iterable(map(_trained, runs))], by)
    if not groups:
        where = listed([str(run.folder) for run in runs])
        problem = f"none of the runs has networks that were trained on its own set, {CONDENSED}"
        raise ConfigError([f"{where}: {problem}; `dist-condense evaluate OUTPUT` trains some"])
    remarks = [*notes, *partial, *dict.fromkeys(repeated), *_remarks(Comparison(by=by, groups=groups))]
    return Comparison(by=by, groups=groups, notes=[*map(one_line, remarks)])


def _grouped(networks: Sequence[Trained], by: str) -> tuple[list[Group], list[str]]:
    """Return the groups, those of complete sets first, and a note for each run that is left out."""
    alike: dict[tuple[Any, ...], list[list[Trained]]] = {}
    notes = []
    for own in sorted(networks, key=lambda own: not own.run.card.complete):
        key = (tuple(_values(own, by).items()), tuple(_settings(own.run.config).items()))
        groups = alike.setdefault(key, [])
        fitting = [members for members in groups if not _other_images([*members, own])]
        same = (x for members in fitting for x in members if x.run.config.seed == own.run.config.seed)
        if (first := next(same, None)) is not None:
            notes.append(f"{own.run.folder} is left out: {first.run.folder} has the same settings and seed")
        elif members := next((x for x in fitting if _state(x[0].run) == _state(own.run)), None):
            members.append(own)
        else:
            groups.append([own])
    made = [
        Group(
            values={**dict(values), "set": _state(members[0].run)},
            settings={**dict(settings), **dict(chain.from_iterable(_digests(x.run).items() for x in members))},
            members=members,
        )
        for (values, settings), groups in alike.items()
        for members in groups
    ]
    return made, notes


def _remarks(comparison: Comparison) -> Iterator[str]:
    of_dataset: dict[str, list[Mapping[str, str]]] = {}
    for group in comparison.groups:
        of_dataset.setdefault(group.values["dataset"], []).append(group.settings)
    if any(_differ(settings, "data") for settings in of_dataset.values()):
        yield "rows have different training images, by their hashes in environment.json (data)"
    if names := [name for name in TEST if comparison.differs(name)]:
        yield f"the top-1 of different rows cannot always be compared: they differ in {', '.join(names)}"
    runs = [member.run for group in comparison.groups for member in group.members]
    hosts = dict.fromkeys(run.host or "not recorded" for run in runs if run.hours is not None)
    if len(hosts) > 1:
        yield f"process hours are of different machines: {'; '.join(hosts)}"


def _trained(run: Run) -> list[Trained]:
    """Return the networks that were trained on the set of a run, by architecture, protocol and epochs."""
    top1: dict[tuple[str, ...], dict[int, float]] = {}
    for row in run.rows:
        top1.setdefault((row.set, *(str(getattr(row, name)) for name in TRAINING)), {})[row.seed] = row.top1_last
    return [
        Trained(run=run, training=training, top1=own, random=top1.get((RANDOM, *training), {}))
        for (name, *training), own in top1.items()
        if name == CONDENSED
    ]


def _values(own: Trained, by: str) -> dict[str, str]:
    run = own.run
    values = {
        METHOD: run.config.method.name,
        "dataset": run.config.dataset.name,
        "ipc": _text(run.config.ipc),
        **dict(zip(TRAINING, own.training, strict=True)),
        **run.tested_on,
    }
    return values if by in values else {by: _text(keys.value(run.config, by)), **values}


def _settings(config: RunConfig) -> dict[str, str]:
    """Return the keys that determine a set, except those of :data:`NO_SETTINGS`."""
    items = identity(config).items()
    return {key: _text(x) for key, x in items if key in PRECISION or not key.startswith(NO_SETTINGS)}


def _text(item: Any) -> str:
    """Return a value as a text, with all digits."""
    return item if isinstance(item, str) else json.dumps(item, separators=(",", ":"), sort_keys=True)


def _digests(run: Run) -> dict[str, str]:
    """Return the recorded hashes of a run's images, by name."""
    return {name: text for name in DIGESTS if (text := getattr(run.digests, name)) is not None}


def _follow(derived: Sequence[str], given: Sequence[str], texts: Sequence[Mapping[str, str]]) -> bool:
    """Return whether those with equal texts of the given names have equal texts of the derived ones."""
    without, whole = (
        {tuple(own.get(name) for name in names) for own in texts} for names in (given, [*given, *derived])
    )
    return len(without) == len(whole)


def _differ(texts: Sequence[Mapping[str, str]], name: str) -> bool:
    """Return whether those that have a text of this name have different ones."""
    return len({own[name] for own in texts if name in own}) > 1


def _state(run: Run) -> str:
    """Return the step of a set that is not complete as a text, and an empty one for a complete set."""
    return "" if run.card.complete else f"not complete, step {run.card.steps}"


def _other_images(members: Sequence[Trained]) -> bool:
    """Return whether two members have different images, by their hashes."""
    digests = [_digests(member.run) for member in members]
    return any(_differ(digests, name) for name in DIGESTS)


def cut(text: str) -> str:
    """Return the first characters of a text, at most :data:`LONGEST`."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _std(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None
