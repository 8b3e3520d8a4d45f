"""Groups of runs that differ only in their condensation seeds, and the statistics of each group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import fsum, sqrt
from statistics import fmean, stdev
from typing import Any

from dist_condense.result.comparison.runs import Run
from dist_condense.result.difference import Difference, mean_of, paired
from dist_condense.result.markdown import one_line
from dist_condense.result.summary import RANDOM
from dist_condense.settings import keys
from dist_condense.settings.identity import identity
from dist_condense.settings.keys import KEYS
from dist_condense.settings.recipes import as_given
from dist_condense.settings.schema import CONDENSED, RunConfig
from dist_condense.settings.values import ConfigError, meant, shown

METHOD, SETTINGS = "method", "settings"
TRAINING = ("architecture", "protocol", "epochs")
"""Columns of evaluation.csv that are equal in all networks of a group."""
NAMES = (METHOD, "dataset", "ipc", *TRAINING)
"""Values by which runs can be compared besides the keys of their configs."""
TEST = ("dataset", "classes", "shape", "root", "protocol", "epochs")
"""Values without which the top-1 of two rows cannot be compared: the test images, and how networks are trained."""
TOLD_BY_DATASET = ("classes", "shape", "root")
NO_SETTINGS = ("seed", "ipc", "compute.")
"""Prefixes of keys that do not divide a group: the seed, a value of its own, and what changes the last bits only."""
LONGEST = 60
"""Largest number of characters of a text in a table."""


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


@dataclass(frozen=True, kw_only=True)
class Group:
    """A row of the comparison: runs with equal settings, one per condensation seed."""

    values: Mapping[str, str]
    """Texts by name: of the key of the comparison, of :data:`NAMES`, and of the test images."""
    settings: Mapping[str, str]
    """Values of the keys that determine a set, by key."""
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
    def over_random(self) -> Difference | None:
        """Mean difference to random images and its standard error; None if there is no pair of networks.

        The differences of each condensation seed are averaged first, because its networks share the set; the error is
        that of the mean over seeds, and for a single seed that of the mean over its networks.
        """
        own = [member.differences for member in self.members if member.differences]
        return mean_of(own[0] if len(own) == 1 else [fmean(differences) for differences in own])

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
        """Return the texts of each group by column, each of at most :data:`LONGEST` characters.

        If groups have equal values, a column ``settings`` has the keys that tell them apart. The texts have neither
        hidden characters nor secrets.
        """
        differing = [self._settings(group) for group in self.groups]
        labels = []
        for group, settings in zip(self.groups, differing, strict=True):
            texts = {name: group.values[name] for name in self.columns}
            labels.append({k: _shown(x) for k, x in (texts | ({SETTINGS: settings} if any(differing) else {})).items()})
        return labels

    @property
    def caption(self) -> str:
        """The values that are equal in all groups, in one line."""
        equal = {name: x for name, x in self.groups[0].values.items() if x and not self.differs(name)}
        return ", ".join(f"{name} {_shown(x)}" for name, x in equal.items() if name not in (self.by, *TOLD_BY_DATASET))

    def differs(self, name: str) -> bool:
        """Return whether groups have different values of this name."""
        return len({group.values[name] for group in self.groups}) > 1

    def _settings(self, group: Group) -> str:
        """Return the settings that tell a group from those with equal values."""
        others = [other.settings for other in self.groups if other.values == group.values]
        differing = [key for key in group.settings if len({other[key] for other in others}) > 1]
        return " ".join(f"{key}={group.settings[key]}" for key in differing)


def check_key(by: str) -> None:
    """Check that runs can be compared by a key. Raises ConfigError, with the choices."""
    if by not in NAMES and by not in KEYS:
        known = f"{', '.join(NAMES)}, or a key of docs/config.md such as trajectory.networks"
        raise ConfigError([f"--by: {shown(by)} is unknown; choose one of {known}{meant(by, [*NAMES, *KEYS])}"])


def compared(runs: Sequence[Run], by: str = METHOD) -> Comparison:
    """Group the networks that were trained on the runs' sets.

    Runs are in one group only if they differ in nothing but the seed: neither in the settings that determine the set,
    nor in the test images, nor in the training of the networks. If several have the same seed, the first one counts.

    :param by: a name of :data:`NAMES`, or a key of the config.
    :raises ConfigError: the key is unknown, or no network was trained on the set of any run.
    """
    check_key(by)
    grouped: dict[tuple[Any, ...], list[Trained]] = {}
    notes = [f"{run.folder}: the set is not complete (step {run.card.steps})" for run in runs if not run.card.complete]
    for own in chain.from_iterable(map(_trained, runs)):
        members = grouped.setdefault((tuple(_values(own, by).items()), tuple(_settings(own.run.config).items())), [])
        if (first := next((x for x in members if x.run.config.seed == own.run.config.seed), None)) is None:
            members.append(own)
        else:
            notes.append(f"{own.run.folder} is left out: {first.run.folder} has the same settings and seed")
    if not grouped:
        raise ConfigError([f"none of the runs has networks that were trained on its own set, {CONDENSED}"])
    groups = [
        Group(values=dict(values), settings=dict(settings), members=members)
        for (values, settings), members in grouped.items()
    ]
    notes = [*dict.fromkeys(notes), *_remarks(Comparison(by=by, groups=groups))]
    return Comparison(by=by, groups=groups, notes=[*map(one_line, notes)])


def _remarks(comparison: Comparison) -> Iterator[str]:
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
        "ipc": str(run.config.ipc),
        **dict(zip(TRAINING, own.training, strict=True)),
        **run.tested_on,
    }
    return values if by in values else {by: as_given(keys.value(run.config, by)), **values}


def _settings(config: RunConfig) -> dict[str, str]:
    """Return the keys that determine a set, except those of :data:`NO_SETTINGS`."""
    return {key: as_given(x) for key, x in identity(config).items() if not key.startswith(NO_SETTINGS)}


def _shown(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


def _std(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None
