"""The keys of a configuration: typed, each with the values that it accepts and a docstring under it.

Checks, ``dist-condense list`` and docs/config.md are made from what stands here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from dist_condense.core.augmentation import OPERATIONS
from dist_condense.core.distance import DISTANCES
from dist_condense.core.parameterisation import AXES, DECODINGS
from dist_condense.core.start import STARTS
from dist_condense.core.statistic import PARAMETERS, STATISTICS
from dist_condense.data import constants
from dist_condense.data.reading.tiers import AUTO, RAW, TIERS
from dist_condense.engine.matching.recipe import DRAWS
from dist_condense.evaluation.protocols import PROTOCOLS, REPLACED
from dist_condense.procedures import NAMES
from dist_condense.selection.table import SELECTIONS
from dist_condense.settings.limits import COUNT, OneOf, Range
from dist_condense.settings.parts import BATCHES, NETWORK_STARTS, PARTITIONS

SETS = (*SELECTIONS, "condensed", "whole")
DEVICES = ("auto", "cpu", "cuda")

Seed = Annotated[int, Range(-(2**63), 2**63 - 1)]
Count = Annotated[int, Range(1, COUNT)]
Amount = Annotated[int, Range(0, COUNT)]
Batch = Annotated[int, Range(1, 1_000_000)]
Side = Annotated[int, Range(1, 65_536)]
Workers = Annotated[int, Range(0, 100_000)]
Threads = Annotated[int, Range(1, 1024)]
Rate = Annotated[float, Range(0, 1_000_000, above=True)]
Momentum = Annotated[float, Range(0, 1, below=True)]
Decay = Annotated[float, Range(0, 1_000_000)]
Probability = Annotated[float, Range(0, 1)]
Mean = Annotated[float, Range(-1_000_000, 1_000_000)]
Spread = Annotated[float, Range(0, 1_000_000, above=True)]
Operation = Annotated[str, OneOf("augmentation operations", OPERATIONS)]


@dataclass(kw_only=True)
class DatasetConfig:
    """What is condensed."""

    name: str = "digits"
    """One of `dist-condense list`; `image_folder` or `imagenet` for any folder of class folders."""
    root: str | None = None
    """Its folder; shipped configs take it from an environment variable such as `IMAGENET_ROOT`. A password in a url is
    used and never stored."""
    size: Side | None = None
    """Pixels of a side; null: the data set's own (224 for image folders, what they were prepared with for shards)."""
    classes: str | list[str] | None = None
    """A named subset (`imagenet100_idc`), a list of class names in label order, or null for all."""
    channels: Annotated[int, Range(1, 3)] | None = None
    """1 (grey) or 3, of `image_folder` alone; null: 1 where all files are grey by their headers, settled and stored at
    the first start."""
    constants: Annotated[str, OneOf("whose mean and std", constants.names())] | None = None
    """Whose mean and std normalise the images: null, the paper's, else `measured` (`image_folder`, unless
    all its classes are WordNet ids, so ImageNet's; DCC's six groups of ImageNet); another data set's, by its name (IDC
    and DCC take `cifar10` for CIFAR-100); `measured`, of the training images, once."""
    mean: list[Mean] | None = None
    """Per channel, of their values (bytes as [0, 1]); null: by `constants`, settled and stored at the first start."""
    std: list[Spread] | None = None
    """See `mean`."""
    download: bool = False
    """Let torchvision fetch the data set into `root`."""
    orientation: bool | None = None
    """Turn image files by their EXIF orientation; null: `image_folder` yes, the papers' data sets no, as their programs
    and torchvision (`false`). Images that `prepare --size` wrote are what they became then."""


@dataclass(kw_only=True)
class DataConfig:
    """How its images are read and kept. Changing it does not change the set."""

    tier: Annotated[str, OneOf("where real images are kept", (AUTO, *TIERS, RAW))] = "auto"
    """`gpu` (decoded), `ram` (decoded), `encoded` (in RAM), `disk`; `auto`: the first of these that fits; `ffcv`: the
    beton of a prepared set, which the system's page cache keeps."""
    memory_budget: Annotated[float, Range(0, 1_000_000)] | None = None
    """GiB per node that `auto` may fill; null: half of the smallest node's memory."""
    threads: Threads | None = None
    """Threads per worker that decode; null: the cores shared out among the workers."""
    cache: str | None = None
    """Each node's folder for remote shards; null: dist_condense-UID, this user's own, among its temporary files."""
    verify: bool = True
    """Compare the hash of each shard with the manifest when a run opens it; of image files in folders, read all headers
    before a run's first start."""


@dataclass(kw_only=True)
class NetworkConfig:
    """The network theta that statistics are taken with. Null options are the network's own defaults."""

    name: str = "convnet"
    """One of `dist-condense list`, or `timm:NAME`; options can follow here, too: `timm:NAME:img_size=64`."""
    width: Annotated[int, Range(1, 8192)] | None = None
    """Channels of the first stage."""
    depth: Annotated[int, Range(1, 100)] | None = None
    """Blocks of the ConvNet."""
    norm: str | None = None
    """`instance`, `batch`, `group`, `layer` or `none`."""
    activation: str | None = None
    """`relu`, `leaky`, `swish` or `sigmoid` (ConvNet)."""
    pooling: str | None = None
    """`avg`, `max` or `none` (ConvNet)."""


@dataclass(kw_only=True)
class AugmentationConfig:
    """Differentiable siamese augmentation.

    `flip` is left out by itself where it changes the label (digits, MNIST, SVHN).
    """

    always: list[Operation] = field(default_factory=list)
    """Applied each time (IDC: color, cutout)."""
    one_of: list[Operation] = field(default_factory=list)
    """One of these is drawn per class and step (DSA: all of its list)."""


@dataclass(kw_only=True)
class ParameterisationConfig:
    """How learnt pixels become images."""

    factor: Annotated[int, Range(1, 1000)] = 1
    """Multi-formation factor n: an image holds n x n tiles, or n along `axes`. 1: plain pixels."""
    axes: Annotated[str, OneOf("axes of multi-formation", AXES)] | None = None
    """Along which axis an image is cut into tiles: `height`, `width` (IDC on speech: time), or null, along both."""
    decoding: Annotated[str, OneOf("decodings", DECODINGS)] = "uniform"
    """In matching: `uniform`, `multi` (factors 1..n) or `bounded`. Training on the set is always uniform."""


@dataclass(kw_only=True)
class StatisticConfig:
    """What is matched."""

    name: Annotated[str, OneOf("statistics", STATISTICS)] = "gradient"
    """`gradient` of the mean cross-entropy, or the mean `embedding`."""
    parameters: Annotated[str, OneOf("parameters that the gradient is taken of", PARAMETERS)] = "matrices"
    """Which parameters the gradient is taken of: `matrices` (no bias, no norm), `convolutions`, `all`."""


@dataclass(kw_only=True)
class GroupingConfig:
    """Which classes are averaged before the distance."""

    name: Annotated[str, OneOf("groupings", PARTITIONS)] = "per_class"
    """`per_class`, `pooled`, `given` (by `groups`), `random` or `kmeans` (into `number` groups)."""
    number: Count = 1
    """Groups of `random` and `kmeans`."""
    groups: list[list[int]] = field(default_factory=list)
    """Labels of each group for `given`; every class once."""
    warmup_networks: Amount = 0
    """Per class while k < this and t < `warmup_steps` (DCC: 250)."""
    warmup_steps: Amount = 0
    """See `warmup_networks` (DCC: 10)."""


@dataclass(kw_only=True)
class ImagesConfig:
    """SGD on the learnt pixels."""

    lr: Rate = 0.1
    """Learning rate; at `reference_ipc` and `reference_size` where these are given."""
    momentum: Momentum = 0.5
    """Momentum."""
    shared_buffer: bool = False
    """IDC: one momentum buffer over all classes, stepped once per class, which makes momentum nearly inert."""
    reference_ipc: Count | None = None
    """Scale lr by ipc / this (IDC: 10)."""
    reference_size: Side | None = None
    """Scale lr by (size / this) squared (IDC: 28 MNIST, 224 ImageNet, else 32)."""


@dataclass(kw_only=True)
class SelectionConfig:
    """Which real images `method.procedure: selecting` chooses. Of the other keys of `method` it reads `augmentation`,
    for the training of the network; `trajectory` and `training` are not read."""

    name: Annotated[str, OneOf("selections of real images", SELECTIONS)] | None = None
    """One of `dist-condense list`."""
    epochs: Amount = 20
    """Passes over the whole training set by which the network is trained whose features are read, if any are."""
    lr: Rate = 0.01
    """Learning rate of that training, constant."""
    momentum: Momentum = 0.9
    """Its momentum."""
    weight_decay: Decay = 5e-4
    """Its weight decay."""
    batch: Batch = 256
    """Its images per update."""


@dataclass(kw_only=True)
class MethodConfig:
    """The parts of a method; a group: dc, dsa, dcc, dsac, dm, idc_i, idc, or one that selects real images. Any product
    of parts is a method."""

    name: str = "dc"
    """For tables and tracking only; that of the group file `method/NAME.yaml`, where one is chosen and states none."""
    procedure: Annotated[str, OneOf("procedures", NAMES)] = "matching"
    """What a run does from start to end: `matching`, Algorithm 1; or `selecting` real images, by `selection`."""
    unit_space: bool = False
    """Learn values of images ([0, 1]; those of float images as stored), clamped to their bounds when a network begins
    (IDC); else normalised values, never clamped (DC)."""
    start: Annotated[str, OneOf("starts of the pixels", STARTS)] = "noise"
    """Pixels start from `noise`, `real` images, or `mixed` (each tile a whole real image)."""
    parameterisation: ParameterisationConfig = field(default_factory=ParameterisationConfig)
    """f"""
    statistic: StatisticConfig = field(default_factory=StatisticConfig)
    """phi"""
    grouping: GroupingConfig = field(default_factory=GroupingConfig)
    """G"""
    distance: Annotated[str, OneOf("distances", DISTANCES)] = "layerwise_cosine"
    """D, between the statistics of synthetic and of real images."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """A; the same draw on real and synthetic images of a class."""
    images: ImagesConfig = field(default_factory=ImagesConfig)
    """How pixels move."""
    label_lr: Rate | None = None
    """Learn a label of each image, too: class probabilities, the softmax of scores that move by SGD with this learning
    rate and the momentum of `images`. They start at 0.9 for the class. Null: labels are the classes."""
    real_batch: Batch = 256
    """Real images per class and matching step; a class with fewer gives each of them once."""
    real_draw: Annotated[str, OneOf("draws of real images", DRAWS)] = "fresh"
    """`fresh` random draw each step (DC), or `epochs` over the class, incomplete batch dropped (IDC)."""
    synthetic_limit: Count = 128
    """Decoded images per class and matching step (IDC: 128): `bounded` decodes with smaller factors to stay within it;
    else a random subset of so many is matched."""
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    """What is selected instead, without matching."""


@dataclass(kw_only=True)
class TrajectoryConfig:
    """How many networks, and how each starts."""

    networks: Count = 1000
    """K, networks that the set is matched on one after the other."""
    matching_steps: Count = 1
    """T, matching steps per network."""
    start: Annotated[str, OneOf("starts of a network", NETWORK_STARTS)] = "fresh"
    """`fresh`, `pretrained` (`pretrain_epochs` on real data now) or `pool` (one of `pool_size` such networks)."""
    pretrain_epochs: Amount = 0
    """Passes over the real data (IDC: ImageNet-10 10, ImageNet-100 5)."""
    pool_size: Annotated[int, Range(1, 10_000)] = 10
    """Networks in the pool."""


@dataclass(kw_only=True)
class TrainingConfig:
    """How theta moves after each matching step but the last; a group: synthetic, real, frozen."""

    source: Annotated[str, OneOf("training of theta", BATCHES)] = "synthetic"
    """Trained on the `synthetic` set, on `real` images, or `frozen`."""
    epochs: Amount = 0
    """Passes over the synthetic set after each matching step."""
    images: Amount = 0
    """Real images after each matching step; whole batches until reached, walking through shuffled passes."""
    batch: Batch = 256
    """Images per update; for `real` also that of pretraining."""
    lr: Rate = 0.01
    """Learning rate of theta."""
    momentum: Momentum = 0.0
    """Momentum of theta."""
    weight_decay: Decay = 0.0
    """Weight decay of theta."""
    cutmix: Probability = 0.0
    """Probability of CutMix per batch. Cutout is left out of the augmentation where it is above 0 (IDC)."""
    check_finite: bool = True
    """Stop, before anything is stored, where theta, a statistic, a loss or an update of pixels is not finite. false: go
    on and leave such updates out; pixels stay finite, and rest while theta is not."""


@dataclass(kw_only=True)
class ComputeConfig:
    """How the numbers are computed. These keys change the last bits of the result, so they belong to the run: where one
    is null, the first start settles it."""

    autocast: bool = False
    """Networks in bfloat16; sums stay in float32."""
    compile: bool = False
    """torch.compile the hot functions: up to a minute at the start, then faster (benchmarks/ has notes)."""
    microbatch: Amount = 0
    """At most this many images through the network at once, by the two-pass form; 0: all of a class."""
    slices: Annotated[int, Range(1, 10_000)] | None = None
    """Units that a training batch is cut into, whose gradients are summed; null: 4 (1 with BatchNorm)."""
    threads: Threads | None = None
    """CPU threads that a worker computes with; null: 1. Another number gives other last bits, more workers do not."""
    reproducible: bool | None = None
    """Sums that do not depend on the number of workers; null: on CPUs yes, on GPUs no."""


@dataclass(kw_only=True)
class ClusterConfig:
    """Where a run computes. The set does not depend on it."""

    workers: Workers = 0
    """Ray workers, one per GPU or per `compute.threads` cores, with the same set; 0: in this process, without Ray."""
    device: Annotated[str, OneOf("devices", DEVICES)] = "auto"
    """`cpu`, `cuda`, or `auto`: cuda where there is one."""
    max_failures: Amount = 0
    """How often a worker group that failed is started again, from the newest checkpoint. A machine that goes when its
    preemption notice said is not counted; one that goes sooner is."""
    timeout: Annotated[float, Range(1, 10_000_000)] = 600.0
    """Seconds that workers wait for each other; one that is silent longer hangs, and ends the group. Above the longest
    thing that a worker does by itself: opening its data, compiling."""
    min_workers: Annotated[int, Range(1, 100_000)] | None = None
    """Go on with as few as this where nodes are lost, and with up to `workers` again once there is room; null: only
    with `workers`."""


@dataclass(kw_only=True)
class EvaluationConfig:
    """Networks trained from scratch on the result."""

    sets: list[Annotated[str, OneOf("evaluation sets", SETS)]] = field(default_factory=lambda: ["condensed"])
    """Any of `condensed`, `whole` (the real training set), and selections of as many real images by name, see
    `dist-condense list`. One that is left to chance is drawn anew for each network; one that needs a trained network is
    made once, by a run of its own, in `selections/` beside the output, where all runs on the same data find it."""
    protocol: Annotated[str, OneOf("evaluation protocols", PROTOCOLS, REPLACED)] = "dc"
    """How they are trained. Its flips are left out by themselves where they change the label."""
    architectures: list[str] = field(default_factory=lambda: ["network"])
    """Networks by name; `network` is the one that condensed, with its options. Any can carry options of its own, after
    colons: `resnet18_cifar:norm=instance`, `convnet:depth=4:width=64`, `timm:NAME:img_size=64`, `network:norm=batch`.
    """
    seeds: Annotated[int, Range(1, 100_000)] = 3
    """Networks per set and architecture."""
    epochs: Amount | None = None
    """Null: the protocol's own; 0: no evaluation, for which a folder needs no test images."""
    whole_epochs: Count | None = None
    """Epochs on the whole training set; null: as `epochs`, then the protocol's own (IDC: 300)."""
    threads: Threads | None = None
    """CPU cores per network that is trained; null: 1 on Ray, all in this process."""


@dataclass(kw_only=True)
class TrackingConfig:
    """MLflow, metrics and checkpoints."""

    uri: str | None = None
    """MLflow server; null: MLFLOW_TRACKING_URI, else sqlite under the output. A password in it is used, never stored;
    better give it by MLFLOW_TRACKING_URI, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."""
    experiment: str = "dist_condense"
    """MLflow experiment."""
    log_every: Count = 10
    """Steps (of matching; classes selected) between two lines of metrics.jsonl, and two comparisons of the workers."""
    checkpoint_minutes: Annotated[float, Range(0, 1_000_000)] = 5.0
    """Longest time between two checkpoints, also within the training of theta; 0: after every update."""
    checkpoint_steps: Count | None = None
    """Steps between two checkpoints; null: by time alone."""
    checkpoints_kept: Count = 2
    """Newest checkpoints that stay."""
    checkpoints: str | None = None
    """Where `checkpoints/` and `pool/` are kept: a folder, or a url s3:// or gs://; null: in the output."""


@dataclass(kw_only=True)
class RunConfig:
    """A whole run."""

    seed: Seed = 0
    """Keys every random draw."""
    output: str = "outputs/run"
    """The run's folder; the same command on it continues."""
    ipc: Annotated[int, Range(1, 100_000)] = 1
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
