"""The configuration of a run: typed, a docstring under each field. How files are read stands in yaml_files.py.

A config file names its parts (``defaults: [method: idc, training: real, _self_]``) and states its budget; every key
below can also be given on the command line as ``key=value``. ``docs/config.md`` is checked against this file.
"""

from __future__ import annotations

import difflib
import functools
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from dist_condense.settings import values, yaml_files
from dist_condense.settings.values import ConfigError, Misfit
from dist_condense.settings.yaml_files import Unusable
from dist_condense.system.credentials import address, is_half, is_hidden, masked

PACKAGE = Path(__file__).resolve().parents[1]
GROUPS = ("method", "training")
FREE = (
    "cluster.",
    "data.",
    "tracking.",
    "evaluation.",
    "output",
    "dataset.root",
    "dataset.download",
    "training.check_finite",
)
"""Keys that do not change the set; other data under dataset.root are known by their digest."""
SETTLED = ("cluster.slices", "cluster.threads", "cluster.reproducible", "dataset.mean", "dataset.std")
"""Keys that do, and stay as the first start chose them."""
PATHS = ("output", "dataset.root", "data.cache", "tracking.checkpoints")
"""Keys in which `~` is the home of whoever starts the run; `sqlite:///~/` in tracking.uri likewise."""
ADDRESSES = ("tracking.uri", "tracking.checkpoints", "dataset.root", "data.cache")
"""Keys whose values may be addresses with a password or a token in them, which no file of a run holds."""
WHOLE_PATHS = ("output", "dataset.root")
"""Those that ``checks`` looks at, with the folders above them, for letters that no file of a run can hold."""


@dataclass
class DatasetConfig:
    """What is condensed."""

    name: str = "digits"
    """One of `dist-condense list`; `image_folder` or `imagenet` for any folder of class folders."""
    root: str | None = None
    """Its folder; shipped configs take it from an environment variable such as `IMAGENET_ROOT`. A password in a url is
    used and never stored."""
    size: int | None = None
    """Pixels of a side; null: the data set's own (224 for image folders, what they were prepared with for shards)."""
    classes: str | list[str] | None = None
    """A named subset (`imagenet100_idc`), a list of class names in label order, or null for all."""
    constants: str | None = None
    """Whose mean and std normalise the images: null, the data set's own (DCC's six groups of ImageNet: measured);
    another data set's, by its name (IDC and DCC take `cifar10` for CIFAR-100); `measured`, of the training images."""
    mean: list[float] | None = None
    """Per channel, of pixels in [0, 1]; null: by `constants`, settled and stored at the first start."""
    std: list[float] | None = None
    """See `mean`."""
    download: bool = False
    """Let torchvision fetch the data set into `root`."""
    orientation: bool | None = None
    """Turn image files by their EXIF orientation; null: `image_folder` yes, the papers' data sets no, as their programs
    and torchvision (`false`). Images that `prepare --size` wrote are what they became then."""


@dataclass
class DataConfig:
    """How its images are read and kept. Changing it does not change the set."""

    source: str = "files"
    """`files`: folders, class shards or arrays, as they lie at `dataset.root`; `ffcv`: the beton of a prepared set."""
    tier: str = "auto"
    """`gpu` (decoded), `ram` (decoded), `encoded` (in RAM), `disk`; auto: the first that fits."""
    memory_budget: float | None = None
    """GiB per node that `auto` may fill; null: half of the smallest node's memory."""
    threads: int | None = None
    """Threads per worker that decode; null: the cores shared out among the workers."""
    cache: str | None = None
    """Each node's folder for remote shards; null: dist_condense-UID, this user's own, among its temporary files."""
    verify: bool = True
    """Compare the hash of each shard with the manifest when a run opens it; of image files in folders, read all headers
    before a run's first start."""


@dataclass
class NetworkConfig:
    """The network theta that statistics are taken with. Null options are the network's own defaults."""

    name: str = "convnet"
    """One of `dist-condense list`, or `timm:NAME`; options can follow here, too: `timm:NAME:img_size=64`."""
    width: int | None = None
    """Channels of the first stage."""
    depth: int | None = None
    """Blocks of the ConvNet."""
    norm: str | None = None
    """`instance`, `batch`, `group`, `layer` or `none`."""
    activation: str | None = None
    """`relu`, `leaky`, `swish` or `sigmoid` (ConvNet)."""
    pooling: str | None = None
    """`avg`, `max` or `none` (ConvNet)."""


@dataclass
class AugmentationConfig:
    """Differentiable siamese augmentation: `flip`, `color`, `crop`, `scale`, `rotate`, `cutout`.

    `flip` is left out by itself where it changes the label (digits, MNIST, SVHN).
    """

    always: list[str] = field(default_factory=list)
    """Applied each time (IDC: color, cutout)."""
    one_of: list[str] = field(default_factory=list)
    """One of these is drawn per class and step (DSA: all of its list)."""


@dataclass
class ParameterisationConfig:
    """How learnt pixels become images."""

    factor: int = 1
    """Multi-formation factor n: an image holds n x n tiles. 1: plain pixels."""
    decoding: str = "uniform"
    """In matching: `uniform`, `multi` (factors 1..n) or `bounded`. Training on the set is always uniform."""
    budget: int = 128
    """Decoded images per class that `bounded` may reach."""


@dataclass
class StatisticConfig:
    """What is matched."""

    name: str = "gradient"
    """`gradient` of the mean cross-entropy, or the mean `embedding`."""
    parameters: str = "matrices"
    """Which parameters the gradient is taken of: `matrices` (no bias, no norm), `convolutions`, `all`."""


@dataclass
class GroupingConfig:
    """Which classes are averaged before the distance."""

    name: str = "per_class"
    """`per_class`, `pooled`, `given` (by `groups`), `random` or `kmeans` (into `number` groups)."""
    number: int = 1
    """Groups of `random` and `kmeans`."""
    groups: list[list[int]] = field(default_factory=list)
    """Labels of each group for `given`; every class once."""
    warmup_networks: int = 0
    """Per class while k < this and t < `warmup_steps` (DCC: 250)."""
    warmup_steps: int = 0
    """See `warmup_networks` (DCC: 10)."""


@dataclass
class ImagesConfig:
    """SGD on the learnt pixels."""

    lr: float = 0.1
    """Learning rate; at `reference_ipc` and `reference_size` where these are given."""
    momentum: float = 0.5
    """Momentum."""
    shared_buffer: bool = False
    """IDC: one momentum buffer over all classes, stepped once per class, which makes momentum nearly inert."""
    reference_ipc: int | None = None
    """Scale lr by ipc / this (IDC: 10)."""
    reference_size: int | None = None
    """Scale lr by (size / this) squared (IDC: 28 MNIST, 224 ImageNet, else 32)."""


@dataclass
class SelectionConfig:
    """Which real images `method.procedure: selecting` chooses. Of the other keys of `method` it reads `augmentation`,
    for the training of the network; `trajectory` and `training` are not read."""

    name: str | None = None
    """One of `dist-condense list`."""
    epochs: int = 20
    """Passes over the whole training set by which the network is trained whose features are read, if any are."""
    lr: float = 0.01
    """Learning rate of that training, constant."""
    momentum: float = 0.9
    """Its momentum."""
    weight_decay: float = 5e-4
    """Its weight decay."""
    batch: int = 256
    """Its images per update."""


@dataclass
class MethodConfig:
    """The parts of a method; a group: dc, dsa, dcc, dsac, dm, idc_i, idc, or one that selects real images. Any product
    of parts is a method."""

    name: str = "dc"
    """For tables and tracking only; nothing depends on it."""
    procedure: str = "matching"
    """What a run does from start to end: `matching`, Algorithm 1; or `selecting` real images, by `selection`."""
    unit_space: bool = False
    """Hold pixels in [0, 1], clamped when a network begins (IDC); else normalised, never clamped (DC)."""
    start: str = "noise"
    """Pixels start from `noise`, `real` images, or `mixed` (tiles of factor^2 real images)."""
    parameterisation: ParameterisationConfig = field(default_factory=ParameterisationConfig)
    """f"""
    statistic: StatisticConfig = field(default_factory=StatisticConfig)
    """phi"""
    grouping: GroupingConfig = field(default_factory=GroupingConfig)
    """G"""
    distance: str = "layerwise_cosine"
    """D: `layerwise_cosine`, `flat_cosine`, `sum_squared`, `sum_absolute` or `mean_absolute`."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """A; the same draw on real and synthetic images of a class."""
    images: ImagesConfig = field(default_factory=ImagesConfig)
    """How pixels move."""
    label_lr: float | None = None
    """Learn a label of each image, too: class probabilities, the softmax of scores that move by SGD with this learning
    rate and the momentum of `images`. They start at 0.9 for the class. Null: labels are the classes."""
    real_batch: int = 256
    """Real images per class and matching step; a class with fewer gives each of them once."""
    real_draw: str = "fresh"
    """`fresh` random draw each step (DC), or `epochs` over the class, incomplete batch dropped (IDC)."""
    synthetic_limit: int = 128
    """Decoded images per class and matching step; beyond it a random subset (IDC: 128)."""
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    """What is selected instead, without matching."""


@dataclass
class TrajectoryConfig:
    """How many networks, and how each starts."""

    networks: int = 1000
    """K, networks that the set is matched on one after the other."""
    matching_steps: int = 1
    """T, matching steps per network."""
    start: str = "fresh"
    """`fresh`, `pretrained` (`pretrain_epochs` on real data now) or `pool` (one of `pool_size` such networks)."""
    pretrain_epochs: int = 0
    """Passes over the real data (IDC: ImageNet-10 10, ImageNet-100 5)."""
    pool_size: int = 10
    """Networks in the pool."""


@dataclass
class TrainingConfig:
    """How theta moves after each matching step but the last; a group: synthetic, real, frozen."""

    source: str = "synthetic"
    """Trained on the `synthetic` set, on `real` images, or `frozen`."""
    epochs: int = 0
    """Passes over the synthetic set after each matching step."""
    images: int = 0
    """Real images after each matching step; whole batches until reached, walking through shuffled passes."""
    batch: int = 256
    """Images per update; for `real` also that of pretraining."""
    lr: float = 0.01
    """Learning rate of theta."""
    momentum: float = 0.0
    """Momentum of theta."""
    weight_decay: float = 0.0
    """Weight decay of theta."""
    cutmix: float = 0.0
    """Probability of CutMix per batch. Cutout is left out of the augmentation where it is above 0 (IDC)."""
    check_finite: bool = True
    """Stop, before anything is stored, where theta, a statistic, a loss or an update of pixels is not finite. false: go
    on and leave such updates out; pixels stay finite, and rest while theta is not."""


@dataclass
class ComputeConfig:
    """How the numbers are computed. These change the last bits of the result, so they belong to the run."""

    autocast: bool = False
    """Networks in bfloat16; sums stay in float32."""
    compile: bool = False
    """torch.compile the hot functions: up to a minute at the start, then faster (benchmarks/ has notes)."""
    microbatch: int = 0
    """At most this many images through the network at once, by the two-pass form; 0: all of a class."""


@dataclass
class ClusterConfig:
    """Where a run computes. The set does not depend on `workers`; slices, threads and reproducible stay with a run."""

    workers: int = 0
    """Ray workers, one per GPU or per `threads` cores, with the same set; 0: in this process, without Ray."""
    slices: int | None = None
    """Units that a training batch is cut into, whose gradients are summed; null: 4 (1 with BatchNorm)."""
    threads: int | None = None
    """CPU threads that a worker computes with; null: 1. Another number gives other last bits, more workers do not."""
    reproducible: bool | None = None
    """Sums that do not depend on the number of workers; null: on CPUs yes, on GPUs no."""
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: cuda where there is one."""
    max_failures: int = 0
    """How often a worker group that failed is started again, from the newest checkpoint. A machine that goes when its
    preemption notice said is not counted; one that goes sooner is."""
    timeout: float = 600.0
    """Seconds that workers wait for each other; one that is silent longer hangs, and ends the group. Above the longest
    thing that a worker does by itself: opening its data, compiling."""
    min_workers: int | None = None
    """Go on with as few as this where nodes are lost, and with up to `workers` again once there is room; null: only
    with `workers`."""


@dataclass
class EvaluationConfig:
    """Networks trained from scratch on the result."""

    sets: list[str] = field(default_factory=lambda: ["condensed"])
    """Any of `condensed`, `whole` (the real training set), and selections of as many real images by name, see
    `dist-condense list`. One that is left to chance is drawn anew for each network; one that needs a trained network is
    made once, by a run of its own, in `selections/` beside the output, where all runs on the same data find it."""
    protocol: str = "dc"
    """One of `dist-condense list`. Its flips are left out by themselves where they change the label."""
    architectures: list[str] = field(default_factory=lambda: ["network"])
    """Networks by name; `network` is the one that condensed, with its options. Any can carry options of its own, after
    colons: `resnet18_cifar:norm=instance`, `convnet:depth=4:width=64`, `timm:NAME:img_size=64`, `network:norm=batch`.
    """
    seeds: int = 3
    """Networks per set and architecture."""
    epochs: int | None = None
    """Null: the protocol's own; 0: no evaluation, for which a folder needs no test images."""
    whole_epochs: int | None = None
    """Epochs on the whole training set; null: as `epochs`, then the protocol's own (IDC: 300)."""
    threads: int | None = None
    """CPU cores per network that is trained; null: 1 on Ray, all in this process."""


@dataclass
class TrackingConfig:
    """MLflow, metrics and checkpoints."""

    uri: str | None = None
    """MLflow server; null: MLFLOW_TRACKING_URI, else sqlite under the output. A password in it is used, never stored;
    better give it by MLFLOW_TRACKING_URI, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."""
    experiment: str = "dist_condense"
    """MLflow experiment."""
    log_every: int = 10
    """Steps (of matching; classes selected) between two lines of metrics.jsonl, and two comparisons of the workers."""
    checkpoint_minutes: float = 5.0
    """Longest time between two checkpoints, also within the training of theta; 0: after every update."""
    checkpoint_steps: int | None = None
    """Steps between two checkpoints; null: by time alone."""
    checkpoints_kept: int = 2
    """Newest checkpoints that stay."""
    checkpoints: str | None = None
    """Where `checkpoints/` and `pool/` are kept: a folder, or a url s3:// or gs://; null: in the output."""


@dataclass
class RunConfig:
    """A whole run."""

    seed: int = 0
    """Keys every random draw."""
    output: str = "outputs/run"
    """The run's folder; the same command on it continues."""
    ipc: int = 1
    """Synthetic images per class."""
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    """What is condensed."""
    data: DataConfig = field(default_factory=DataConfig)
    """How it is read."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """theta"""
    method: MethodConfig = field(default_factory=MethodConfig)
    """What is matched, and how."""
    trajectory: TrajectoryConfig = field(default_factory=TrajectoryConfig)
    """K, T and how theta starts."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """How theta moves."""
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    """Precision and memory."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """Workers."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Networks trained on the result."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """What is written meanwhile."""


def load(path: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Compose a config file, its groups and ``key=value`` overrides into a checked RunConfig.

    :raises ConfigError: file not found (names the places looked in), unknown keys, wrong types; all at once.
    """
    file = find(path)
    groups, given, problems = _given(overrides)
    try:
        values = yaml_files.composed(file, shipped(), groups)
    except Unusable as error:
        raise ConfigError([*problems, str(error)]) from error
    kept = {key: value for key, value in _leaves(values) if key not in given}
    return _checked(kept | given, problems)


def from_dict(given: dict[str, Any]) -> RunConfig:
    """A RunConfig from plain values or their texts, nested or dotted; unknown keys and wrong types are refused all at
    once (ConfigError).
    """
    config, kinds, problems = RunConfig(), _kinds(), []
    for key, value in _leaves(given):
        try:
            if key not in kinds:
                raise Misfit(_unknown(key, value))
            *sections, name = key.split(".")
            section = functools.reduce(getattr, sections, config)
            if key not in WHOLE_PATHS:
                values.check_text(value)
            found = _at_home(key, values.converted(key, value, kinds[key]))
            is_address = key in ADDRESSES and isinstance(found, str)
            setattr(section, name, address(found, bare=key not in PATHS) if is_address else found)
        except Misfit as error:
            problems.append(f"{key}: {error}")
    if problems:
        raise ConfigError(problems, config)
    return config


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Plain values."""
    return asdict(config)


def to_yaml(config: RunConfig) -> str:
    """The resolved config as text that :func:`load` and :func:`read` accept; without the secrets of addresses."""
    return yaml_files.dumped(to_dict(config))


def read(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """A resolved config as a run wrote it, with overrides; these alone may have interpolations. Nothing else is
    composed. Raises ConfigError, also for what :func:`yaml_files.stored` refuses."""
    groups, given, problems = _given(overrides)
    problems += [f"{group}: a run's config has no groups; give {group}.KEY=VALUE" for group in groups]
    try:
        values = yaml_files.stored(path)
    except Unusable as error:
        raise ConfigError([*problems, str(error)]) from error
    kept = {key: value for key, value in _leaves(values) if key not in given}
    return _checked(kept | given, problems)


def find(path: str) -> Path:
    """The config file: as given (from the working directory), then beside the package."""
    places = list(dict.fromkeys([Path(os.path.expanduser(path)).absolute(), PACKAGE / path, PACKAGE.parent / path]))
    for place in places:
        if os.path.isfile(place):
            return place
    if os.path.exists(places[0]):
        raise ConfigError([f"config {path!r} is not a file; name one that ends in .yaml"])
    others = (place.with_suffix(ending) for place in places for ending in yaml_files.ENDINGS)
    meant = next((f"; is {other} meant?" for other in others if os.path.isfile(other)), "")
    raise ConfigError([f"config {path} was not found; looked at {', '.join(map(str, places))}{meant}"])


def shipped() -> Path:
    """The folder of the shipped configs: in the package, or beside it in a checkout."""
    inside = PACKAGE / "configs"
    return inside if inside.is_dir() else PACKAGE.parent / "configs"


def not_stored(config: RunConfig) -> list[str]:
    """A line for each data set or store whose address was stored without its secret, so that nothing can be opened;
    ``tracking_address.problems`` has that of the tracking server.
    """
    places = {"dataset.root": config.dataset.root, "tracking.checkpoints": config.tracking.checkpoints}
    return [
        f"{key}: {place}: its password is not stored; give the whole address again, {key}=..."
        for key, place in places.items()
        if place and is_hidden(place)
    ]


def known_keys() -> list[str]:
    """All keys, dotted."""
    return [path for path, _ in _leaves(to_dict(RunConfig()))]


def documented() -> Iterator[tuple[str, str, Any]]:
    """(key, type, default) of every field, in order."""
    for path, default in _leaves(to_dict(RunConfig())):
        yield path, _field_type(path), default


def identity(config: RunConfig) -> dict[str, Any]:
    """Every key that changes the result, dotted, with its value; open choices once they are settled.

    Left out are where and how the same is computed, read, tracked and evaluated, and where the data lie.
    """
    values = dict(_leaves(to_dict(config)))
    kept = {key: value for key, value in values.items() if not key.startswith(FREE) and key not in SETTLED}
    return kept | {key: values[key] for key in SETTLED if values[key] is not None}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Keys that differ between two identities, one line each; settled keys count once both sides state them."""
    keys = [key for key in new if key not in SETTLED or key in old]
    there = {**identity(RunConfig()), **old}  # a key that an earlier version did not have is as it was: its default
    return [f"{key}: {there.get(key)!r} there, {new[key]!r} now" for key in keys if there.get(key) != new[key]]


def in_submitted_job() -> bool:
    """Whether this is the driver of a `ray job submit`, whose working directory is thrown away."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def _given(overrides: Sequence[str]) -> tuple[dict[str, str], dict[str, Any], list[str]]:
    """Of ``key=value`` texts: the groups that are chosen, the keys with their values, and a line for what is neither.

    Each is cut at its first ``=``, and the type of its key says how the rest is read.
    """
    groups: dict[str, str] = {}
    given: dict[str, Any] = {}
    problems = []
    for before, override in zip(["", *overrides], overrides, strict=False):
        key, equals, text = override.lstrip("+").partition("=")
        if key.startswith("~"):
            problems.append(f"{override!r}: a key cannot be taken away; give another value, {key[1:]}=VALUE")
        elif not equals or not key:
            whole = f"; if it belongs to what stands before it: {shlex.quote(f'{before} {override}')}" if before else ""
            problems.append(f"{override!r} is not key=value{whole}")
        else:
            try:
                if key in _sections() and not text.lstrip().startswith("{"):
                    groups[key] = yaml_files.checked(text)
                else:
                    given |= dict(_leaves({key: _value(key, text)}))
            except Unusable as error:
                problems.append(f"{key}: {error}")
    return groups, given, problems


def _value(key: str, text: str) -> Any:
    """Texts, None, a list or a dict of these. Raises Unusable."""
    kind = _kinds().get(key, str)
    is_list = values.takes_list(kind) and text.lstrip().startswith("[")
    if key not in _sections() and (values.takes_text(kind) or not text.strip()) and not is_list:
        return None if text == "null" else yaml_files.checked(values.unquoted(text))
    try:
        return yaml_files.parsed(text)
    except Unusable as error:
        example = shlex.quote(f'{key}=["A","B"]' if is_list else f"{key}={{KEY: VALUE}}")
        raise Unusable(f"{text!r} cannot be read: {error}; it is written {example}") from error


def _checked(values: Mapping[str, Any], problems: Sequence[str] = ()) -> RunConfig:
    """:func:`from_dict` of dotted keys whose interpolations are not resolved yet; a problem names what it came from."""
    resolved, unresolved = yaml_files.resolved(values)
    problems = [*problems, *unresolved]
    try:
        config = from_dict(resolved)
    except ConfigError as error:
        lines = ((line, values.get(line.split(":")[0])) for line in error.problems)
        problems += [f"{line}, from {text}" if "${" in str(text) else line for line, text in lines]
        raise ConfigError(problems, error.rest) from error
    if problems:
        raise ConfigError(problems, config)
    return config


@functools.cache
def _kinds() -> dict[str, Any]:
    """The type of each key, dotted."""
    return dict(_typed(RunConfig))


def _typed(section: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, kind in get_type_hints(section).items():
        if isinstance(kind, type) and is_dataclass(kind):
            yield from _typed(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", kind


@functools.cache
def _sections() -> set[str]:
    """What groups of keys are called, dotted."""
    parents = (key.split(".")[:-1] for key in _kinds())
    return {".".join(names[:n]) for names in parents for n in range(1, len(names) + 1)}


def _at_home(key: str, value: Any) -> Any:
    """A path without `~`. Raises Misfit where there is nobody of that name, and for half an address."""
    if isinstance(value, str) and key in PATHS and is_half(value):
        raise Misfit(
            f"{masked(value)!r} lacks a slash or the colon of an address, SCHEME://; a folder of that name is ./..."
        )
    start = "sqlite:///" if key == "tracking.uri" else ""
    if not isinstance(value, str) or key not in (*PATHS, "tracking.uri") or not value.startswith(f"{start}~"):
        return value
    path = os.path.expanduser(value.removeprefix(start))
    if path.startswith("~"):
        raise Misfit(f"{value!r}: there is no home of {path.split('/')[0]}; a folder of that name is ./{path}")
    return f"{start}{path}"


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and (value or not prefix):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _unknown(key: str, value: Any) -> str:
    if key in _sections():
        return f"{value!r} is no key of this group, nor a file that the config's defaults choose; give {key}.KEY=VALUE"
    close = difflib.get_close_matches(key, known_keys(), 1, 0.6)
    return "unknown key" + (f"; did you mean {close[0]}?" if close else "; see docs/config.md")


def _field_type(path: str) -> str:
    section: Any = RunConfig()
    *parents, last = path.split(".")
    for name in parents:
        section = getattr(section, name)
    return next(str(f.type) for f in fields(section) if f.name == last) if is_dataclass(section) else "a value"
