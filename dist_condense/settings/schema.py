"""The keys of a configuration, each with its type, accepted values and documentation.

Checks, ``dist-condense list`` and docs/config.md are generated from this module.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from dist_condense.core.augmentation import OPERATIONS
from dist_condense.core.distance import DISTANCES
from dist_condense.core.objective import SECOND_DERIVATIVES
from dist_condense.core.parameterisation import AXES, DECODINGS
from dist_condense.core.start import STARTS
from dist_condense.core.statistic import PARAMETERS, STATISTICS
from dist_condense.data import constants
from dist_condense.data.reading.tiers import AUTO, RAW, TIERS
from dist_condense.data.space import BOUNDS
from dist_condense.engine.matching.recipe import DRAWS
from dist_condense.evaluation.protocols import PROTOCOLS, REPLACED
from dist_condense.evaluation.rows import SETS_BEFORE
from dist_condense.networks.convnet import ACTIVATIONS, POOLINGS
from dist_condense.networks.norms import SIZED_NORMS
from dist_condense.networks.text import DEPTH, WIDTH
from dist_condense.procedures import NAMES
from dist_condense.selection.table import SELECTIONS
from dist_condense.settings.limits import COUNT, OneOf, Range
from dist_condense.settings.parts import BATCHES, NETWORK_STARTS, PARTITIONS

CONDENSED, FULL = "condensed", "full"
SETS = ChainMap[str, Any]({CONDENSED: None, FULL: None}, SELECTIONS)
"""Names of the sets of an evaluation, the selections first, among them those that are registered later."""
AUTO_DEVICE, CPU, CUDA = DEVICES = ("auto", "cpu", "cuda")

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
Spread = Annotated[float, Range(1e-30, 1_000_000)]  # in float32 not 0
Operation = Annotated[str, OneOf("augmentation operations", OPERATIONS)]


@dataclass(kw_only=True)
class DatasetConfig:
    """The data set to condense."""

    name: str = "digits"
    """Name of the data set, see `dist-condense list`; `image_folder` or `imagenet` for any folder of class folders,
    `arrays` for an .npz file, `huggingface` for a folder of `save_to_disk` or of parquet files."""
    root: str | None = None
    """Folder, file or url of the data set; shipped configs read an environment variable such as `IMAGENET_ROOT`. A
    password in a url is used but never stored."""
    size: Side | None = None
    """Height and width of an image in pixels; null: the data set's own (224 for image folders, the prepared size for
    shards)."""
    classes: str | list[str] | None = None
    """Classes to condense: a named subset (`imagenet100_idc`) or a list of class names in label order; null: all."""
    channels: Annotated[int, Range(1, 3)] | None = None
    """Number of channels, 1 (grey) or 3; for `image_folder` only. Null: 1 if all files are grey by their headers, else
    3; determined and stored at the first start."""
    constants: Annotated[str, OneOf("sources of mean and std", constants.names())] | None = None
    """Source of the mean and std that normalise the images: the name of a data set (IDC and DCC use those of `cifar10`
    for CIFAR-100), or `measured`, computed once from the training images. Null: the data set's published values; if
    there are none, `measured` (DCC's six groups of ImageNet; `image_folder`, except that ImageNet's values are used if
    all classes are WordNet ids)."""
    mean: list[Mean] | None = None
    """Mean of each channel, in stored values (bytes scaled to [0, 1]); null: determined by `constants` at the first
    start, and stored."""
    std: list[Spread] | None = None
    """Standard deviation of each channel, in stored values; null: determined and stored like `mean`."""
    download: bool = False
    """Whether torchvision may download the data set into `root`."""
    orientation: bool | None = None
    """Whether image files are rotated by their EXIF orientation. Null: true for `image_folder`, false for the papers'
    data sets, as in torchvision and the authors' programs. Images written by `prepare --size` stay as prepared."""
    flip: bool | None = None
    """Whether a horizontally flipped image keeps its label; if not, no augmentation flips, neither in matching nor in
    the evaluation. Null: false for digits, MNIST and SVHN, else true."""
    bounds: Annotated[str, OneOf("bounds of the values of float images", BOUNDS)] | None = None
    """Bounds of the values of `arrays` of floats: `unit` (0 to 1) or `none`; learnt pixels in the space of values are
    clamped to them. Null: `unit` if all training values are in it, determined and stored at the first start."""
    test_fraction: Annotated[float, Range(0, 1, above=True, below=True)] | None = None
    """Fraction of each class that is held out as test images, for folders of class folders without `train/` and `val/`
    (`image_folder`, `imagenet`). The choice depends only on the names of the class and its files; at least one image of
    each class is a test image, and one a training image. Null: the folder holds `train/` and `val/`."""
    columns: list[str] | None = None
    """Names of the columns of `huggingface` with the images and with the labels, `[image,label]`; null: the only ones
    of these types."""


@dataclass(kw_only=True)
class DataConfig:
    """Reading and caching of real images. These keys do not change the synthetic set."""

    tier: Annotated[str, OneOf("storage tiers of real images", (AUTO, *TIERS, RAW))] = "auto"
    """Storage of the real images: `gpu` (decoded), `ram` (decoded), `encoded` (in RAM), `disk`; `auto`: the first of
    these that fits (with Ray workers never `gpu`); `ffcv`: the beton of a prepared data set, cached by the operating
    system."""
    memory_budget: Annotated[float, Range(0, 1_000_000)] | None = None
    """GiB per node that `auto` may fill; null: half of the smallest node's memory."""
    threads: Threads | None = None
    """Decoding threads per worker; null: the cores of the cluster divided by the workers."""
    cache: str | None = None
    """Folder on each node that caches remote shards; null: dist_condense-UID in the directory for temporary files."""
    verify: bool = True
    """Whether to compare the hash of each shard with the manifest when it is opened and, for folders of image files, to
    read all headers before the first start."""


@dataclass(kw_only=True)
class NetworkConfig:
    """The network theta that computes the statistics. Options that are null have the default of the network."""

    name: str = "convnet"
    """Name of the network, see `dist-condense list`, or `timm:NAME`; options may follow: `timm:NAME:img_size=64`."""
    width: Annotated[int, Range(WIDTH.least, WIDTH.most)] | None = None
    """Number of channels of the first stage."""
    depth: Annotated[int, Range(DEPTH.least, DEPTH.most)] | None = None
    """Number of blocks of a ConvNet."""
    norm: Annotated[str, OneOf("normalisation layers", SIZED_NORMS)] | None = None
    """Normalisation layers; `layer` is for ConvNets only."""
    activation: Annotated[str, OneOf("activations of a ConvNet", ACTIVATIONS)] | None = None
    """Activation of a ConvNet."""
    pooling: Annotated[str, OneOf("poolings of a ConvNet", POOLINGS)] | None = None
    """Pooling of a ConvNet."""


@dataclass(kw_only=True)
class AugmentationConfig:
    """Differentiable siamese augmentation.

    `flip` is omitted automatically where it changes the label (digits, MNIST, SVHN).
    """

    always: list[Operation] = field(default_factory=list)
    """Operations applied at every step (IDC: color, cutout). If several of flip, crop, scale and rotate apply, they are
    composed to one warp."""
    one_of: list[Operation] = field(default_factory=list)
    """Operations of which one is drawn per class and step (DSA: all of its list)."""


@dataclass(kw_only=True)
class ParameterisationConfig:
    """Parameterisation f, which decodes learnt pixels to images."""

    factor: Annotated[int, Range(1, 1000)] = 1
    """Multi-formation factor n: each image consists of n x n tiles, or of n tiles along one of `axes`. 1: plain
    pixels."""
    axes: Annotated[str, OneOf("axes of multi-formation", AXES)] | None = None
    """Axis along which an image is cut into tiles: `height`, `width` (IDC on speech: time), or null for both."""
    decoding: Annotated[str, OneOf("decodings", DECODINGS)] = "uniform"
    """Decoding for matching: `uniform` (factor n), `multi` (each factor 1 to n) or `bounded` (for each image the
    largest factor that `method.synthetic_limit` allows). Training on the set always uses `uniform`."""


@dataclass(kw_only=True)
class StatisticConfig:
    """The statistic phi that is matched between real and synthetic images."""

    name: Annotated[str, OneOf("statistics", STATISTICS)] = "gradient"
    """Statistic of a class: the `gradient` of the mean cross-entropy, or the mean `embedding`."""
    parameters: Annotated[str, OneOf("parameters of the matched gradient", PARAMETERS)] = "matrices"
    """Parameters whose gradient is matched: `matrices` (no biases, no norm layers), `convolutions` or `all`."""


@dataclass(kw_only=True)
class GroupingConfig:
    """Grouping G: groups of classes whose statistics are averaged before the distance is computed."""

    name: Annotated[str, OneOf("groupings", PARTITIONS)] = "per_class"
    """Partition of the classes: `per_class`, `pooled`, `given` (by `groups`), `random` or `kmeans` (into `number`
    groups)."""
    number: Count = 1
    """Number of groups, for `random` and `kmeans`."""
    groups: list[list[int]] = field(default_factory=list)
    """Labels of each group, for `given`; every class occurs exactly once, and no group is empty."""
    warmup_networks: Amount = 0
    """Number of networks, from the first, whose first `warmup_steps` matching steps are per class (DCC: 250)."""
    warmup_steps: Amount = 0
    """Number of matching steps, from the first, that are per class on each of the `warmup_networks` (DCC: 10)."""


@dataclass(kw_only=True)
class ImagesConfig:
    """SGD on the learnt pixels."""

    lr: Rate = 0.1
    """Learning rate of the pixels; it is scaled if `reference_ipc` or `reference_size` is set."""
    momentum: Momentum = 0.5
    """Momentum of the pixels."""
    shared_buffer: bool = False
    """Whether all classes share one momentum buffer, updated once per class as in IDC's program, which makes momentum
    nearly ineffective."""
    reference_ipc: Count | None = None
    """Number of images per class for which `lr` is stated; `lr` is multiplied by ipc / reference_ipc (IDC: 10). Null:
    no scaling."""
    reference_size: Side | None = None
    """Image size for which `lr` is stated; `lr` is multiplied by (size / reference_size) squared (IDC: 28 for MNIST,
    224 for ImageNet, else 32). Null: no scaling."""


@dataclass(kw_only=True)
class SelectionConfig:
    """Selection of real images, for `method.procedure: selecting`. A selection that needs a trained network also reads
    `method.augmentation`; no selection reads other keys of `method`, `trajectory` or `training`."""

    name: Annotated[str, OneOf("selections of real images", SELECTIONS)] | None = None
    """Name of the selection, see `dist-condense list`."""
    epochs: Amount = 20
    """Number of passes over the whole training set in training the feature network, if the selection needs one."""
    lr: Rate = 0.01
    """Constant learning rate of the feature network."""
    momentum: Momentum = 0.9
    """Momentum of the feature network."""
    weight_decay: Decay = 5e-4
    """Weight decay of the feature network."""
    batch: Batch = 256
    """Number of images per update of the feature network."""


@dataclass(kw_only=True)
class RepresentativesConfig:
    """Representative real minibatches (DREAM), for `method.real_draw: representative`."""

    interval: Count = 10
    """Number of matching steps for which a minibatch is kept (DREAM: 10)."""
    images: Count | None = None
    """Number of images of a class that are embedded and clustered for a minibatch, drawn at random each time; also for
    `method.start: representative`. Null: all (DREAM)."""


@dataclass(kw_only=True)
class MethodConfig:
    """The parts of a method, set together by `method=` dc, dsa, dcc, dsac, dm, idc_i, idc, random or herding. Any
    combination of parts is a method."""

    name: str = "dc"
    """Name of the method in tables and tracking only; by default that of the group file `method/NAME.yaml`, if one is
    used, with the keys that differ from the recipe of that method (`idc with training.source=synthetic`)."""
    procedure: Annotated[str, OneOf("procedures", NAMES)] = "matching"
    """Procedure of the whole run: `matching` (Algorithm 1), or `selecting` real images as `selection` states."""
    unit_space: bool = False
    """Whether learnt pixels are image values ([0, 1]; float images: as stored), clamped to their bounds before each
    network (IDC); otherwise they are normalised values, never clamped (DC). Selected images are always
    stored as image values."""
    start: Annotated[str, OneOf("starts of the pixels", STARTS)] = "noise"
    """Initial pixels: `noise`, `real` images, `mixed` (each tile a whole real image), or `representative` (as `mixed`,
    but with the images nearest to k-means centres of the features of a random network; DREAM)."""
    parameterisation: ParameterisationConfig = field(default_factory=ParameterisationConfig)
    """Parameterisation f."""
    statistic: StatisticConfig = field(default_factory=StatisticConfig)
    """Statistic phi."""
    grouping: GroupingConfig = field(default_factory=GroupingConfig)
    """Grouping G."""
    distance: Annotated[str, OneOf("distances", DISTANCES)] = "layerwise_cosine"
    """Distance D between the statistics of synthetic and of real images."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """Augmentation A, with the same draw for the real and the synthetic images of a class."""
    images: ImagesConfig = field(default_factory=ImagesConfig)
    """SGD on the pixels."""
    label_lr: Rate | None = None
    """Learning rate of soft labels: the class probabilities of each image are then learnt as the softmax of scores, by
    SGD with the momentum of `images`; the image's own class starts at 0.9. Null: hard labels."""
    real_batch: Batch = 256
    """Number of real images per class and matching step; all of them, each once, if a class has fewer."""
    real_draw: Annotated[str, OneOf("draws of real images", DRAWS)] = "fresh"
    """Draw of real images: `fresh`, random at each step (DC); `epochs`, passes over the class, each without its
    incomplete last batch (IDC); or `representative`, those nearest to the k-means centres of the class's features, as
    `representatives` states (DREAM)."""
    representatives: RepresentativesConfig = field(default_factory=RepresentativesConfig)
    """Representative real minibatches, see [fewer_steps.md](fewer_steps.md)."""
    synthetic_limit: Count = 128
    """Largest number of decoded images per class and matching step (IDC: 128). The `bounded` decoding stays within it
    by using smaller factors; the other decodings match a random subset of this size."""
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    """Selection of real images, which replaces matching."""


@dataclass(kw_only=True)
class TrajectoryConfig:
    """The number of networks and their initialisation."""

    networks: Count = 1000
    """Number of networks K on which the synthetic set is matched, one after the other."""
    matching_steps: Count = 1
    """Number of matching steps T per network."""
    start: Annotated[str, OneOf("starts of a network", NETWORK_STARTS)] = "fresh"
    """Initialisation of each network: `fresh` (random), `pretrained` (for `pretrain_epochs` on real images), `pool`
    (one of `pool_size` networks pretrained before) or `early` (as `pool`, but with a random perturbation; Acc-DD)."""
    pretrain_epochs: Amount = 0
    """Number of pretraining passes over the real images (IDC: 10 for ImageNet-10, 5 for ImageNet-100; Acc-DD: 2 for
    CIFAR, 10 for ImageNet)."""
    pool_size: Annotated[int, Range(1, 10_000)] = 10
    """Number of networks in the pool (IDC: 10 for ImageNet-100; Acc-DD: 5)."""


@dataclass(kw_only=True)
class TrainingConfig:
    """Training of theta after each matching step except the last.

    `training=synthetic`, `training=real` and `training=frozen` (no training) set all of these keys at once.
    """

    source: Annotated[str, OneOf("training of theta", BATCHES)] = "synthetic"
    """Training images of theta: the `synthetic` set or `real` images; `frozen`: no training."""
    epochs: Amount = 0
    """Number of passes over the synthetic set after each matching step, for `source: synthetic`."""
    images: Amount = 0
    """Number of real images to train on after each matching step, for `source: real`; rounded up to whole batches. They
    are taken from shuffled passes over all images, which continue from one training to the next."""
    batch: Batch = 256
    """Number of images per update of theta, in training and in pretraining."""
    lr: Rate = 0.01
    """Learning rate of theta."""
    momentum: Momentum = 0.0
    """Momentum of theta."""
    weight_decay: Decay = 0.0
    """Weight decay of theta."""
    cutmix: Probability = 0.0
    """Probability of CutMix per batch. If it is above 0, cutout is omitted from the augmentation (IDC)."""
    check_finite: bool = True
    """Whether to stop, before anything is stored, when theta, a statistic, a loss or a pixel update is not finite.
    False: continue without such updates; pixels stay finite and are not updated while theta is not finite."""


@dataclass(kw_only=True)
class ComputeConfig:
    """Precision, memory and numerics. These keys change the last bits of the result, `autocast` and `tf32` more than
    these, so they are fixed for a run: the first start replaces null by a value and stores it."""

    autocast: bool = False
    """Whether networks compute in bfloat16; sums stay in float32."""
    compile: bool = False
    """Whether to compile the matching step of a class and the training of theta with torch.compile, which takes up to
    two minutes at the start. On CPUs, steps of CIFAR-10 then take 60 % of the time ([performance.md](performance.md)).
    """
    second_derivative: Annotated[str, OneOf("second derivatives", SECOND_DERIVATIVES)] | None = None
    """How the gradient of the matched gradient is computed: `reverse`, by a double backward, or `forward`, by a
    backward over a forward derivative. Both are exact. Null: reverse, which was faster on CPUs
    ([performance.md](performance.md))."""
    tf32: bool = True
    """Whether float32 products may be rounded to 19 bits (TF32) on GPUs, as torch does for convolutions by default."""
    cudnn_benchmark: bool | None = None
    """Whether cuDNN times its algorithms at the first step and keeps the fastest, so that the last bits may differ from
    start to start; null: true on GPUs, unless `deterministic` is true."""
    deterministic: bool | None = None
    """Whether all kernels add in a fixed order on GPUs, as they always do on CPUs, so that two runs on one kind of GPU
    are bitwise equal; augmentation and up-sampling are then computed in another form, and an operation that has none is
    refused. It also holds in the evaluation. Null: on GPUs the value of `reproducible`, on CPUs false."""
    channels_last: bool = False
    """Whether theta has its weights, and thus its feature maps, in the memory format NHWC."""
    cuda_graphs: Annotated[int, Range(0, 16)] = 0
    """Number of classes whose matching steps are captured together in one CUDA graph, each on a stream of its own, and
    replayed; updates of theta are then captured, too. 0, and on CPUs: none. Does not change the result; memory grows
    with it, and where that is exhausted during a capture, the run ends with the advice to lower it."""
    microbatch: Amount | None = None
    """Largest number of images in the network at once in matching, which then takes two passes over each class; 0: all
    images of a class at once. Null: 0 if that fits, by an estimate, in 80 % of the memory of every worker, else the
    number, halved until it fits; the memory is the free one of a GPU, on CPUs an equal share of the machine's whole
    memory, less 1 GiB. Equal machines choose equally on CPUs, and usually on GPUs. A worker that runs out of memory
    nevertheless halves it once, with a warning."""
    slices: Annotated[int, Range(1, 10_000)] | None = None
    """Number of slices of a training batch, whose gradients are summed; null: 4 (1 with BatchNorm)."""
    threads: Threads | None = None
    """CPU threads of each worker's computations; null: 1. Another number changes the last bits; the number of workers
    does not."""
    reproducible: bool | None = None
    """Whether sums are independent of the number of workers; null: true on CPUs, false on GPUs."""


@dataclass(kw_only=True)
class ClusterConfig:
    """The workers of a run. These keys do not change the synthetic set."""

    workers: Workers = 0
    """Number of Ray workers, one per GPU or per `compute.threads` cores; 0: compute in this process, without Ray."""
    device: Annotated[str, OneOf("devices", DEVICES)] = "auto"
    """Device of the workers: `cpu`, `cuda`, or `auto`, cuda if available."""
    max_failures: Amount = 0
    """Number of times that a failed worker group is restarted from the newest checkpoint. The loss of a node at the
    time that its preemption notice announced is not counted; an earlier loss is counted."""
    timeout: Annotated[float, Range(1, 10_000_000)] = 600.0
    """Seconds after which a worker that does not answer the other workers is considered hung, and its group fails. Set
    it above the longest work of a single worker, such as opening its data or compiling."""
    min_workers: Annotated[int, Range(1, 100_000)] | None = None
    """Smallest number of workers with which the run continues after nodes are lost; the group grows to `workers` again
    when there is room. Null: always `workers`."""

    @property
    def on_gpu(self) -> bool:
        """Whether workers compute on GPUs; False while the device is ``auto``."""
        return self.device == CUDA

    def settled(self, has_gpus: Callable[[], bool]) -> ClusterConfig:
        """Replace the device ``auto`` by ``cuda`` if ``has_gpus()``, else by ``cpu``; keep any other device."""
        return self if self.device != AUTO_DEVICE else replace(self, device=CUDA if has_gpus() else CPU)


@dataclass(kw_only=True)
class EvaluationConfig:
    """Evaluation of the synthetic set: networks are trained on it from scratch and tested."""

    sets: list[Annotated[str, OneOf("evaluation sets", SETS, SETS_BEFORE)]] = field(
        default_factory=lambda: ["condensed"]
    )
    """Training sets to compare: `condensed`, `full` (all real training images), and selections of ipc real images per
    class (see `dist-condense list`). A random selection is drawn anew for each network; a selection that needs a
    trained network is computed once, by a separate run in `selections/` beside the output, and is shared by all runs on
    the same data."""
    protocol: Annotated[str, OneOf("evaluation protocols", PROTOCOLS, REPLACED)] = "dc"
    """Training protocol of a paper. Its flips are omitted automatically where they change the label."""
    architectures: list[str] = field(default_factory=lambda: ["network"])
    """Networks to train; `network` is the condensing network with its options. Options follow after colons:
    `resnet18_cifar:norm=instance`, `convnet:depth=4:width=64`, `timm:NAME:img_size=64`, `network:norm=batch`. The
    groups `widths`, `depths`, `activations`, `poolings`, `norms` and `networks` are those of DC's tables."""
    seeds: Annotated[int, Range(1, 100_000)] = 3
    """Number of networks per set and architecture."""
    epochs: Amount | None = None
    """Training epochs; null: the protocol's; 0: no evaluation, which needs no test images."""
    full_epochs: Count | None = None
    """Training epochs on `full`; null: `epochs`, or if that is null as well, the protocol's (IDC: 300)."""
    threads: Threads | None = None
    """CPU cores per trained network; null: 1 on Ray, otherwise all."""


@dataclass(kw_only=True)
class TrackingConfig:
    """MLflow, metrics and checkpoints."""

    uri: str | None = None
    """Address of the MLflow server; null: MLFLOW_TRACKING_URI, else a sqlite file in the output. A password in it is
    used but never stored; prefer MLFLOW_TRACKING_URI, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."""
    experiment: str = "dist_condense"
    """Name of the MLflow experiment."""
    log_every: Count = 10
    """Number of units (matching steps, or selected classes) between two lines of metrics.jsonl, besides a line after
    the first. At each line, the shared state of the workers is compared."""
    checkpoint_minutes: Annotated[float, Range(0, 1_000_000)] = 5.0
    """Longest time between two checkpoints in minutes, also while theta is trained; 0: a checkpoint after every
    update."""
    checkpoint_steps: Count | None = None
    """Number of units between two checkpoints; null: checkpoints by time only."""
    checkpoints_kept: Count = 2
    """Number of newest checkpoints that are kept."""
    checkpoints: str | None = None
    """Folder or url (s3://, gs://) that contains `checkpoints/` and `pool/`; null: the output."""


@dataclass(kw_only=True)
class RunConfig:
    """The configuration of a whole run."""

    seed: Seed = 0
    """Seed of every random draw."""
    output: str = "outputs/run"
    """Folder of the run; the same command on it continues the run."""
    ipc: Annotated[int | dict[str, int], Range(1, 100_000)] = 1
    """Number of synthetic images per class; or numbers by the name or WordNet id of the class, where `"*"` stands for
    all others: `{oak: 20, "*": 5}`."""
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    trajectory: TrajectoryConfig = field(default_factory=TrajectoryConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
