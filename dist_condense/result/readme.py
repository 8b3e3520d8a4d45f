"""README.md of a synthetic set: its data-set card for people, in the form that the Hugging Face Hub reads.

Names of classes, methods, networks and columns are untrusted: none of them changes the form of the page. The page
contains no path, address or name of a machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import prod

from dist_condense.data import ImageSet
from dist_condense.data.image_set import Licence
from dist_condense.data.sets.folders import IMAGENET
from dist_condense.engine.procedure import Units
from dist_condense.evaluation.protocols import Protocol, protocol
from dist_condense.evaluation.rows import Row
from dist_condense.result.card import SOFT, WITH_PACKAGE, Card
from dist_condense.result.loader import LOADER
from dist_condense.result.markdown import one_line, plain, table
from dist_condense.result.preview import left_out
from dist_condense.result.summary import is_balanced_apart, summarise
from dist_condense.result.synthetic_set import PREVIEW
from dist_condense.settings import architectures, assembly, yaml_files
from dist_condense.settings.config import RunConfig, to_dict
from dist_condense.system.credentials import masked

TAGS = ("dataset-condensation", "dataset-distillation", "dist-condense")
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
"""The Hub's categories of size: least number of images above each, and its name."""
RECIPE = "Recipe to train with"
LARGEST = "10M<n<100M"
CLASSES = 20
"""Number of classes that the page names."""
OF_A_MACHINE = ("output", "data", "cluster", "tracking", "dataset.root", "dataset.download", "evaluation.threads")
"""Keys and sections of a config that belong to a machine, and do not change the synthetic set."""
SHORTEST_FENCE = 3


def text_of(card: Card, config: RunConfig, dataset: ImageSet, units: Units, rows: Sequence[Row]) -> str:
    """Return the text of README.md.

    :param card: card of the set as it was written.
    :param config: config of the run that made the set.
    :param rows: rows of evaluation.csv; none if no network was trained on the set yet.
    """
    licence = licence_of(dataset)
    images = f"{card.ipc_text} {_plural('image', max(card.counts))} per class"
    title = f"{images} of {plain(card.dataset)}, by {plain(card.method)}"
    sections = {
        "Loading": _loading(),
        RECIPE: _training(card, config, dataset),
        "Scores": _scores(rows, card, config.dataset.test_fraction),
        "Licence of the source": _licence(licence),
        "How it was made": _making(card, config, units),
    }
    parts = [_header(card, licence), f"# {title}\n", _description(card, units)]
    parts += [f"## {name}\n\n{text}" for name, text in sections.items()]
    return "\n".join(parts)


def licence_of(dataset: ImageSet) -> Licence:
    """Return the licence of a data set. The user's own images may be ImageNet's if their classes have WordNet ids."""
    licence = dataset.facts.licence
    if dataset.facts.own and all(entry.wnid for entry in dataset.classes):
        where = f"All classes have WordNet ids. If the images are ImageNet's: {IMAGENET.licence.terms}"
        return Licence(licence.name, f"{licence.terms} {where}")
    return licence


# --- sections -----------------------------------------------------------------------------------------------------


def _header(card: Card, licence: Licence) -> str:
    """Return the YAML header, whose keys and values the Hub defines."""
    images = sum(card.decoded_counts)
    content = {
        "license": licence.name.lower(),
        "task_categories": ["image-classification"],
        "tags": list(TAGS),
        "size_categories": [next((name for least, name in SIZES if images < least), LARGEST)],
        "pretty_name": one_line(f"{card.dataset}, condensed by {card.method}, ipc {card.ipc_text}"),
    }
    return f"---\n{yaml_files.dumped(content)}---\n"


def _description(card: Card, units: Units) -> str:
    count, decoded = sum(card.counts), sum(card.decoded_counts)
    tiles = (
        "" if decoded == count else f", decoded to {decoded:,}: each consists of {card.grid[0]} x {card.grid[1]} tiles"
    )
    state = "complete" if card.complete else f"**not complete**: made by {_progress(card, units)}"
    facts = {
        "method": plain(card.method),
        "source": plain(card.dataset),
        "images": f"{count:,}, {card.ipc_text} per class{tiles}",
        "shape of an image": " x ".join(map(str, card.shape)) + " (channels, height, width), float32",
        "stored values": _values(card),
        "labels": "class probabilities, learnt" if card.labels == SOFT else "numbers of the classes",
        "classes": _classes(card),
        "state": state,
    }
    shown = left_out(card.counts)
    caption = f"The stored images{f' ({shown})' if shown else ''}, by class from left to right and then down."
    about = "A small training set that stands for a large one: a network is trained on these images alone."
    return f"{about}\n\n{table(('', ''), facts.items())}\n![Preview]({PREVIEW})\n\n{caption}\n"


def _values(card: Card) -> str:
    bounds = [x if x is None else f"{x:g}" for x in card.bounds or (0.0, 1.0)]
    mean, std = (", ".join(f"{x:.5g}" for x in values) for values in (card.mean, card.std))
    form = f"(x - mean) / std, mean {mean}, std {std}"
    if card.space.normalised:
        return f"`{card.value_space}`: {form}"
    limits = "without bounds" if bounds == [None, None] else f"real images are from {bounds[0]} to {bounds[1]}"
    return f"`{card.value_space}`: as in images, not clipped ({limits}); loading normalises them: {form}"


def _classes(card: Card) -> str:
    names = ", ".join(plain(entry.name) for entry in card.classes[:CLASSES])
    more = len(card.classes) - CLASSES
    return f"{len(card.classes):,}: {names}" + (f" and {more:,} more, see card.json" if more > 0 else "")


def _loading() -> str:
    alone = f"from {LOADER.removesuffix('.py')} import load\nimages, labels = load()  # normalised, all in memory"
    return (
        f"With dist_condense, beside this folder:\n\n{_block(WITH_PACKAGE, 'python')}\n"
        f"With torch and safetensors alone, in this folder (`{LOADER}` is a program: read it before you run "
        f"that of a stranger):\n\n{_block(alone, 'python')}"
    )


def _training(card: Card, config: RunConfig, dataset: ImageSet) -> str:
    """Return the training that the run's evaluation uses, with the values of its protocol."""
    used = protocol(config.evaluation.protocol, flip=dataset.flip)
    facts = {
        "protocol": f"`{config.evaluation.protocol}`",
        **dict(_courses(card, config, used)),
        "loss": "cross-entropy",
        "images per update": f"{used.batch}, in shuffled epochs with the incomplete last batch",
        "optimiser": f"SGD, momentum {used.momentum:g}, weight decay {used.weight_decay:g}"
        + (", created anew when the learning rate changes" if used.reset_momentum else ""),
        "augmentation": str(used.augmentation),
        "CutMix": f"with probability {used.cutmix:g} per batch" if used.cutmix else "none",
    }
    about = "dist_condense's evaluation trains networks from scratch on the loaded images so:"
    return f"{about}\n\n{table(('', ''), facts.items())}"


def _courses(card: Card, config: RunConfig, used: Protocol) -> Iterator[tuple[str, str]]:
    """Yield the networks, with the epochs and learning rates that each number of epochs implies."""
    options, labels = config.evaluation, card.class_of_each_image.repeat(card.decoded_per_image)
    courses: dict[int, list[str]] = {}
    for entry in architectures.entries(config):
        name = assembly.architecture(config, entry)
        epochs = options.epochs or used.epochs_for(labels, name, card.decoded_per_image)
        courses.setdefault(epochs, []).append(plain(name))
    for epochs, names in courses.items():
        which = "" if len(courses) == 1 else f" of {', '.join(names)}"
        yield f"network{which}", ", ".join(names)
        extra = f", and {used.extra_epochs} more at the last learning rate" if used.extra_epochs else ""
        yield f"epochs{which}", f"{epochs:,}{extra}"
        yield f"learning rate{which}", _learning_rate(used, epochs)


def _learning_rate(used: Protocol, epochs: int) -> str:
    factors = [used.schedule(epoch, epochs) for epoch in range(epochs + used.extra_epochs)]
    changes = [(epoch, now) for epoch, (before, now) in enumerate(pairwise(factors), 1) if now != before]
    return "; ".join(
        [f"{used.lr * factors[0]:g}", *(f"{used.lr * factor:g} from epoch {epoch:,}" for epoch, factor in changes)]
    ) + (" (counted from 0)" if changes else "")


def _scores(rows: Sequence[Row], card: Card, test_fraction: float | None) -> str:
    """Return a table of the top-1 accuracies on the test set, and of the balanced ones where they differ."""
    if not rows:
        return "Not evaluated yet.\n"
    apart = is_balanced_apart(rows)
    lines = [
        [plain(x.set), plain(x.architecture), plain(x.protocol), plain(x.epochs), x.text, str(len(x.values))]
        + ([x.balanced_text] if apart else [])
        for x in summarise(rows)
    ]
    heads = ["trained on", "network", "protocol", "epochs", "top-1, %", "networks", *(["balanced, %"] if apart else [])]
    about = "Top-1 accuracy on the real test images after the last epoch, mean ± standard deviation over networks."
    if test_fraction is not None:
        about += f" The test images were held out of the training images, {100 * test_fraction:g} % of each class."
    if apart:
        about += " Balanced accuracy is the mean over classes, which have different numbers of test images."
    each = f"{card.ipc_text} real {_plural('image', max(card.counts))} per class"
    legend = f"`condensed`: this set; `full`: all real training images; other sets: {each}, selected as the name says."
    return f"{about}\n\n{table(heads, lines)}\n{legend}\n"


def _licence(licence: Licence) -> str:
    made = "The images of this set were made from those of the source, learnt or selected, and this page sets no terms."
    return f"{licence.terms}\n\n{made}\n"


def _making(card: Card, config: RunConfig, units: Units) -> str:
    workers, device = config.cluster.workers, config.cluster.device
    facts = {
        "seed": str(card.seed),
        "progress": f"{_progress(card, units)}, {'complete' if card.complete else 'not complete'}",
        "computed by": (f"{workers} {_plural('worker', workers)}" if workers else "one process") + f" on {device}",
        "versions": ", ".join(f"{plain(name)} {plain(value)}" for name, value in card.versions.items()),
        "commit": plain(card.code_commit or "not known"),
        "date": plain(card.created),
    }
    again = "This file, `recipe.yaml`, makes the set again; with these versions on CPUs of one kind bit for bit:"
    root = " dataset.root=FOLDER" if config.dataset.root is not None else ""
    command = f"dist-condense run recipe.yaml output=outputs/again{root}"
    return f"{table(('', ''), facts.items())}\n{again}\n\n{_block(_recipe(config), 'yaml')}\n{_block(command, 'sh')}"


def _recipe(config: RunConfig) -> str:
    """Return the config without what belongs to a machine, as YAML that ``run`` accepts."""
    content = {name: value for name, value in to_dict(config).items() if name not in OF_A_MACHINE}
    for name, section in content.items():
        if isinstance(section, dict):
            content[name] = {key: value for key, value in section.items() if f"{name}.{key}" not in OF_A_MACHINE}
    return masked(yaml_files.dumped(content))


# --- Markdown -----------------------------------------------------------------------------------------------------


def _progress(card: Card, units: Units) -> str:
    nested = " x ".join(f"{size:,} {_plural(name, size)}" for name, size in units.levels.items())
    return f"{card.steps:,} of {prod(units.levels.values()):,} steps ({nested})"


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}es" if noun.endswith("s") else f"{noun}s"


def _block(code: str, language: str) -> str:
    """Return a code block, whose fence is longer than any in the code."""
    fence = "`" * max(SHORTEST_FENCE, *(len(run) + 1 for run in re.findall("`+", code)), 0)
    return f"{fence}{language}\n{code.rstrip()}\n{fence}\n"
