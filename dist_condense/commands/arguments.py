"""Arguments of all commands. This module imports nothing slow, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from dist_condense import __version__
from dist_condense.system import plugins, terminal

CHANGEABLE = ("evaluation.", "cluster.", "data.", "tracking.", "dataset.root")
"""Prefixes of the keys that may change when a finished run is evaluated; all other keys determined its set."""
PREPARE = (
    "Convert a data set to shards of one class each and a manifest; repeat the command to continue after a failure."
    " Exit code: 0 done, 1 failed (finished classes are kept), 2 refused before anything was written, 130 interrupted"
    " by Ctrl-C, 143 stopped by SIGTERM."
)
EVALUATE = (
    "Train networks from scratch on the set of a finished run, with keys that start with one of "
    f"{', '.join(CHANGEABLE)}; or on sets of any origin: synthetic sets, folders with a folder of images for each"
    " class, folders of Hugging Face's datasets, and .pt files [images, labels]. Networks with a row in evaluation.csv"
    " are skipped."
)
EXPORT = (
    "Write the decoded images of a finished synthetic set in the format of other programs. All but pt clip values to"
    " [0, 1] and round them to bytes. Exit code: 0 done, 1 failed (nothing is left), 2 refused."
)
EXPORT_FORMATS = {
    "imagefolder": "imagefolder: PNG files in a folder for each class",
    "pt": "pt: [images, labels] as float32 tensors",
    "webdataset": "webdataset: tars of png and cls, and classes.txt",
    "hf": "hf: parquet files for Hugging Face's datasets and Hub",
}
"""Formats of an export, each with its description."""
COMPARE = (
    "Compare runs that are finished, or whose networks are trained in part. Runs that differ only in their seeds are"
    " one row: the mean over networks, then over condensation seeds, with both deviations. Runs with other settings,"
    " test images, protocols or epochs are rows of their own. Exit code: 0 done, 2 refused."
)
REPLAY = "Send the records of a run to MLflow; records sent before are skipped."
SOURCE_HELP = (
    "a folder with train/<class>/ and val/<class>/ (or test/); or WebDataset tars of mixed classes as a quoted"
    " pattern, 'train-{0000..0146}.tar', with --val; or NAME:ROOT of a known data set, such as cifar10:/data"
)

EXAMPLES = {
    "": ("run configs/digits.yaml", "list networks", "evaluate outputs/digits evaluation.architectures=[mlp]"),
    "run": (
        "configs/digits.yaml",
        "configs/cifar10_dm.yaml ipc=10 dataset.root=/data/cifar10 output=outputs/dm_10",
        "configs/digits.yaml -m recipe=dc,dsa seed=0,1 output=outputs/two",
    ),
    "check": (
        "configs/digits.yaml",
        "configs/digits.yaml dataset.name=image_folder dataset.root=mine dataset.test_fraction=0.2 dataset.size=32"
        " output=outputs/mine",
    ),
    "plan": (
        "configs/digits.yaml",
        "configs/imagenet100_idc.yaml --gpu h100 --gpus 8 --classes 100 --images-per-class 1300",
    ),
    "prepare": (
        "imagenet:/data/imagenet /data/imagenet100 --size 224 --classes imagenet100_idc",
        "/data/mine /data/mine_prepared --size 64",
    ),
    "evaluate": (
        "outputs/digits evaluation.architectures=[mlp]",
        "data_best.pt --space unit --factor 2 --dataset cifar10 --root /data/cifar10",
        "outputs/digits/synthetic_set outputs/mine evaluation.architectures=[widths]",
    ),
    "export": ("outputs/digits exported/digits --format imagefolder", "outputs/digits digits.pt --format pt"),
    "list": ("networks", "protocols method.distance"),
    "compare": (
        "outputs/dc_0 outputs/dc_1 outputs/dsa_0 outputs/dsa_1",
        "outputs --by trajectory.networks --format html --output table.html",
    ),
    "replay": ("outputs/digits", "outputs/digits --uri http://mlflow:5000"),
}
"""Arguments in the examples of each command's ``--help``; of all commands together under the empty name."""

EXAMPLES_HEADING = "examples:"
OUTPUT = "the folder of the run, or the synthetic set in it"
PLUGIN_HELP = (
    f"module that registers parts when it is imported (docs/extending.md); repeatable; also {plugins.VARIABLE}=A,B"
)


def parser() -> terminal.Parser:
    """Return the parser of ``dist-condense``; those of commands with overrides anywhere are separate."""
    made = terminal.Parser(prog="dist-condense", description="Dataset condensation on Ray.")
    made.add_argument("--version", action="version", version=f"dist-condense {__version__}")
    commands = made.add_subparsers(dest="command", required=True)
    commands.add_parser("run", add_help=False, help="condense, evaluate and report; repeat it to continue a run")
    commands.add_parser("check", add_help=False, help="check a run and decode all of its images, without starting it")
    commands.add_parser("plan", add_help=False, help="estimate time and memory of a run before it starts")
    prepare = commands.add_parser("prepare", help="convert a data set to class shards", description=PREPARE)
    _add_prepare(prepare)
    commands.add_parser("evaluate", add_help=False, help="train networks on the set of a run, or on other sets")
    export = commands.add_parser("export", help="write a set in the format of other programs", description=EXPORT)
    _add_export(export)
    listing = commands.add_parser(
        "list",
        help="list every name that a config can use, with its meaning",
        description="List every name that a config can use, with its meaning.",
    )
    listing.add_argument("words", nargs="*", metavar="TABLE", help="word of a table's title, or a key (default: all)")
    for each in (prepare, listing):
        _add_plugin(each)
    compare = commands.add_parser("compare", help="compare results of runs", description=COMPARE)
    _add_compare(compare)
    replay = commands.add_parser("replay", help="send a run's records to MLflow", description=REPLAY)
    replay.add_argument("output", help=OUTPUT)
    replay.add_argument("--uri", help="address of the server (default: as in the run's config, or MLFLOW_TRACKING_URI)")
    replay.add_argument("--experiment", help="name of the experiment (default: as in the run's config)")
    for name, command in {"": made, **commands.choices}.items():
        _add_examples(command, name)
    return made


def evaluate_parser() -> terminal.Parser:
    """Return the parser of ``dist-condense evaluate``."""
    made = terminal.Parser(prog="dist-condense evaluate", description=EVALUATE)
    add = made.add_argument
    add("sets", nargs="+", metavar="SET|key=value", help=f"{OUTPUT}; or other sets; and keys of the evaluation")
    add("--dataset", metavar="NAME", help="data set with the test images, where the set does not say")
    add("--root", metavar="DIR", help="where these data lie")
    add("--space", choices=["unit", "normalised"], help="space of the pixels in .pt files: image values, or normalised")
    add("--factor", type=int, default=1, metavar="N", help="N x N tiles in each image of .pt files (IDC; default: 1)")
    add("--columns", nargs=2, metavar=("IMAGE", "LABEL"), help="columns of a table with images and labels, of several")
    _add_plugin(made)
    _add_examples(made, made.prog.split()[-1])
    return made


def run_parser() -> terminal.Parser:
    """Return the parser of ``dist-condense run``."""
    made = terminal.Parser(
        prog="dist-condense run",
        description="Condense a data set, evaluate the result, and write a report. The same command continues a run "
        "that was stopped. Exit code: 0 done, 1 the run failed (the last good set is kept), 2 refused before anything "
        "started, 130 stopped by Ctrl-C and 143 by SIGTERM, with its state saved.",
    )
    made.add_argument("config", help="a YAML file, or a shipped one such as configs/digits.yaml")
    overrides = "overrides of the config; docs/config.md lists all keys"
    made.add_argument("overrides", nargs="*", metavar="key=value", help=overrides)
    several = "run every combination of the values in key=A,B, each in a folder of its own below `output`, then compare"
    made.add_argument("-m", "--multirun", action="store_true", help=several)
    made.add_argument("--cfg", action="store_true", help="print the resolved config and exit")
    made.add_argument(
        "--resume",
        default="auto",
        metavar="auto|never|PATH",
        help="auto (default): continue the run in the output folder; never: refuse a folder with checkpoints; "
        "PATH: start from the newest intact checkpoint of another run's folder, or from the given checkpoint",
    )
    _add_plugin(made)
    _add_examples(made, made.prog.split()[-1])
    return made


def check_parser() -> terminal.Parser:
    """Return the parser of ``dist-condense check``."""
    made = terminal.Parser(
        prog="dist-condense check",
        description="Check all that `run` with the same arguments may be refused for, and decode every training and "
        "test image once, without starting the run. Nothing is written in its output folder. With cluster.workers, Ray "
        "is joined or started at the end, unless something else is refused. Exit code: 0 the run would start, 2 it is "
        "refused, with every problem in one list.",
    )
    made.add_argument("config", help="a YAML file, or a shipped one such as configs/digits.yaml")
    overrides = "overrides of the config; docs/config.md lists all keys"
    made.add_argument("overrides", nargs="*", metavar="key=value", help=overrides)
    _add_plugin(made)
    _add_examples(made, "check")
    return made


def plan_parser() -> terminal.Parser:
    """Return the parser of ``dist-condense plan``."""
    made = terminal.Parser(
        prog="dist-condense plan",
        description="Estimate memory, traffic, time and the best number of workers of a run and its evaluation before "
        "it starts: from a few steps of its network timed on this machine, from rates measured elsewhere, or, with "
        "--gpu or --rate, without timing anything. Exit code: 0 planned, 1 the run does not fit or --save failed, 2 "
        "refused.",
    )
    add = made.add_argument
    add("config", help="a YAML file, or a shipped one such as configs/digits.yaml")
    add("overrides", nargs="*", metavar="key=value", help="overrides of the config; docs/config.md lists all keys")
    add("--gpus", type=int, metavar="N", help="plan for N GPUs with one worker each, instead of cluster.workers")
    add("--gpu", metavar="NAME", help="plan for a known GPU, without timing anything; a wrong name lists them")
    add("--share", type=float, metavar="S", help="share of its bf16 matrix rate to assume (default: 0.4)")
    add("--gpu-memory", type=float, metavar="GIB", help="memory of each GPU; needed to check whether the run fits")
    add("--calibration", type=Path, metavar="FILE", help="rates written by --save, possibly on another machine")
    add("--save", type=Path, metavar="FILE", help="write the rates measured on this machine")
    add("--rate", type=float, metavar="N", help="state the rate: N real images per second and worker; nothing is timed")
    add("--bandwidth", type=float, metavar="GIB/S", help="network bandwidth of each worker (default: 1, or the GPU's)")
    add("--classes", type=int, metavar="N", help="plan for N classes without opening the data set")
    add("--images-per-class", type=int, metavar="N", help="plan for N images per class without opening the data set")
    add("--json", action="store_true", help="print the plan as JSON")
    _add_plugin(made)
    _add_examples(made, made.prog.split()[-1])
    return made


def nonempty(text: str) -> str:
    """Expand ``~`` in an argument. Raises ArgumentTypeError if the argument is empty or has a zero byte."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty")
    if "\0" in text:
        raise argparse.ArgumentTypeError("it has a zero byte")
    return os.path.expanduser(text)


def local_path(text: str) -> Path:
    """Convert an argument to a path.

    Raises ArgumentTypeError for a url, and for a path that is not UTF-8 and so cannot be written to the manifest.
    """
    from dist_condense.data.catalogue import is_url
    from dist_condense.data.sets.listing import is_utf8

    if not is_utf8(text):
        raise argparse.ArgumentTypeError(f"{nonempty(text)} is not UTF-8; rename it, or link to it under another name")
    if is_url(text):
        raise argparse.ArgumentTypeError(f"{text} is an address; give a local folder, and upload it afterwards")
    return Path(nonempty(text))


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("outputs", nargs="+", metavar="OUTPUT", help=f"{OUTPUT}; or a folder with runs, also of -m")
    by = "method, dataset, ipc, architecture, protocol, epochs, or a key of the config (default: method)"
    parser.add_argument("--by", default="method", metavar="KEY", help=by)
    formats = "print this format instead of a table for the terminal; html is one page with a bar chart"
    parser.add_argument("--format", choices=("md", "csv", "latex", "html"), help=formats)
    parser.add_argument("--output", type=local_path, metavar="FILE", help="write to a file; needs --format")


class _Help(argparse.HelpFormatter):
    """Formatter that wraps the description, and keeps the lines of the examples."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(EXAMPLES_HEADING) else super()._fill_text(text, width, indent)


def _add_examples(parser: argparse.ArgumentParser, command: str) -> None:
    parser.formatter_class = _Help
    prog = f"dist-condense {command}".strip()
    parser.epilog = "\n".join([EXAMPLES_HEADING, *(f"  {prog} {example}" for example in EXAMPLES[command])])


def _add_plugin(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(plugins.OPTION, action="append", default=[], metavar="MODULE", help=PLUGIN_HELP)


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("set", metavar="SET", type=nonempty, help=OUTPUT)
    parser.add_argument("dest", metavar="DEST", type=local_path, help="file (pt) or folder to write; it must not exist")
    parser.add_argument("--format", required=True, choices=EXPORT_FORMATS, help="; ".join(EXPORT_FORMATS.values()))
    parser.add_argument("--space", choices=["unit", "normalised"], help="space of pixels in tensors (default: unit)")


def _add_prepare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", type=nonempty, help=SOURCE_HELP)
    parser.add_argument(
        "dest", metavar="DEST", type=local_path, help="the output folder; repeat the command to continue in it"
    )
    parser.add_argument("--val", metavar="PATTERN", help="for tars: pattern of the tars with validation images")
    parser.add_argument(
        "--size",
        type=int,
        metavar="N",
        help="side of the resized images in pixels; by default files are copied unchanged",
    )
    parser.add_argument("--png", action="store_true", help="write resized images as PNG, without loss, instead of JPEG")
    parser.add_argument(
        "--classes", metavar="SUBSET|a,b,c", help="a named subset, or class names in the order of labels"
    )
    parser.add_argument(
        "--class-names",
        type=local_path,
        metavar="FILE",
        help="for tars: file with one class name per line, in the order of labels",
    )
    parser.add_argument(
        "--orientation",
        action=argparse.BooleanOptionalAction,
        help="rotate images by their EXIF orientation (default: yes, except for known data sets such as imagenet:ROOT)",
    )
    parser.add_argument(
        "--test-fraction",
        type=float,
        metavar="F",
        help="hold out this fraction of each class as val; for a folder of class folders without train/ and val/",
    )
    parser.add_argument("--skip-bad", action="store_true", help="skip images that cannot be read")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="number of processes; with --ray, of parallel tasks"
    )
    parser.add_argument(
        "--ray", action="store_true", help="use a Ray cluster; SOURCE and DEST must be visible to all nodes"
    )
    parser.add_argument("--ffcv", action="store_true", help="also write FFCV files; needs --size")
