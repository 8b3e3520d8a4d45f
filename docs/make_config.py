"""Writes docs/config.md from the dataclasses of dist_condense/settings/schema.py; ``--check`` only compares.

python docs/make_config.py [--check]
"""

import argparse
import ast
import sys
from pathlib import Path

from dist_condense.settings import config, schema, values
from dist_condense.settings.keys import KEYS, RENAMED
from dist_condense.settings.limits import Limit, OneOf

PAGE = Path(__file__).with_name("config.md")

INTRODUCTION = """\
# Configuration

<!-- Written by `python docs/make_config.py` from dist_condense/settings/schema.py; a test compares them. -->

    python -m dist_condense.run CONFIG [key=value ...]      # or: dist-condense run CONFIG [key=value ...]

`CONFIG` is a yaml file of yours, or a shipped one such as `configs/digits.yaml`. Every key below may stand in the file
or on the command line; the command line wins. `--cfg` prints the resolved config and stops. `dist-condense list` prints
every name that a key accepts. Unknown keys, wrong types and impossible values are refused all at once, before anything
starts (exit code 2). Ranges include their ends, but for one that is `above` or `below` it.

A value is read by the type of its key. A text stays as it stands, `output=20241126_001`, with the quotes off that
surround the whole of it; `null` is none. A list has brackets, `'dataset.classes=[0,no,"a, b"]'`, several keys of a
group have braces, `'method.images={{lr: 0.1, momentum: 0}}'`. `~` is your home in a path, `${{NAME}}` the value of
another key, `\\${{` these two signs. What a shell takes for itself is quoted: `'dataset.root=My Pictures (1)'`.

## Groups
`method=NAME` and `training=NAME` choose a file of parts; keys given beside it change single parts of it.
The shipped ones:

{groups}
## Environment variables
The shipped configs read these; any key can do the same with `${{oc.env:NAME,default}}`.

| variable | meaning |
| --- | --- |
| `FASHION_MNIST_ROOT`, `CIFAR10_ROOT`, `CIFAR100_ROOT` | `dataset.root` of these data sets; torchvision's layout |
| `IMAGENET_ROOT`, `IMAGENETTE_ROOT`, `MINIIMAGENET_ROOT` | `dataset.root`: folders `train/CLASS/` and `val/CLASS/` |
| `DIST_CONDENSE_OUTPUT` | where runs are put, `outputs` by default; absolute and shared in a submitted job |
| `DIST_CONDENSE_WORKERS` | `cluster.workers` of the ImageNet configs, 1 by default |
| `MLFLOW_TRACKING_URI` | the MLflow server where `tracking.uri` is null |

## What changes the result
A run's folder holds one result. The same command again continues it; a config that would give another set is refused
with the difference. `output`, `cluster.*`, `data.*`, `evaluation.*`, `tracking.*`, `training.check_finite` and where
the data lie may differ, and everything else may not.
`compute.slices`, `compute.threads` and `compute.reproducible` change the last
bits ([reliability.md](reliability.md#the-last-bits)). Null is a constant that does
not know the workers; a run that was started before keeps what its first start chose.

Keys of an earlier version, which work in this one with a line that names the new key:

{renamed}
## A config of your own
Anywhere on disk; the shipped groups are found from there:

```yaml
defaults:
  - method: idc
  - training: real
  - _self_
output: /data/runs/mine
ipc: 10
dataset: {{name: image_folder, root: /data/mine, size: 64}}
trajectory: {{networks: 500, matching_steps: 100}}
training: {{images: 500, cutmix: 0.5}}
```

A method of your own is a file `method/mine.yaml` in the folder of that config: any product of the parts of `method`
below, chosen by `method: mine` or `method=mine`. IDC with one pooled group, for example:

```yaml
unit_space: true
start: mixed
parameterisation: {{factor: 2}}
statistic: {{name: gradient, parameters: convolutions}}
grouping: {{name: pooled}}
distance: sum_squared
augmentation: {{always: [color, cutout], one_of: [crop]}}
images: {{lr: 5e-3, shared_buffer: true, reference_ipc: 10, reference_size: 32}}
real_batch: 64
real_draw: epochs
```

## Keys
"""

HEAD = "| key | type and values | default | meaning |\n| --- | --- | --- | --- |\n"


def page() -> str:
    """The whole page."""
    rows: dict[str, list[str]] = {"": []}
    meanings = docstrings(ast.parse(Path(schema.__file__).read_text()))
    for name, key in KEYS.items():
        section = name.split(".")[0] if "." in name else ""
        cells = (f"`{name}`", values.said(key.kind) + limits(key.limit), f"`{plain(key.default)}`", meanings[name])
        rows.setdefault(section, []).append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    tables = [title(section, meanings) + HEAD + "".join(lines) for section, lines in rows.items()]
    return INTRODUCTION.format(groups=groups(), renamed=renamed()) + "\n".join(tables)


def title(section: str, meanings: dict[str, str]) -> str:
    """Heading and the section's own meaning."""
    return f"### {section}\n{meanings[section]}\n\n" if section else ""


def limits(limit: Limit | None) -> str:
    """The values that a key accepts, where they are limited."""
    if isinstance(limit, OneOf):
        return f": {', '.join(f'`{name}`' for name in limit.names)}"
    return f", {limit}" if limit else ""


def renamed() -> str:
    """A line for each old key."""
    return "".join(f"- `{old}`: `{entry.name}`\n" for old, entry in RENAMED.items())


def groups() -> str:
    """The shipped files of each group with their first line."""
    lines = []
    for group in config.GROUPS:
        for file in sorted((config.shipped() / group).glob("*.yaml")):
            lines.append(f"- `{group}={file.stem}`: {file.read_text().splitlines()[0].lstrip('# ').rstrip(',')}\n")
    return "".join(lines)


def docstrings(tree: ast.Module) -> dict[str, str]:
    """Dotted key, or section, to the docstring under its field; a section also tells that of its class."""
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}

    def walk(name: str, prefix: str) -> dict[str, str]:
        found = {}
        for node, after in zip(classes[name].body, classes[name].body[1:], strict=False):
            if isinstance(node, ast.AnnAssign):
                key, kind = f"{prefix}{ast.unparse(node.target)}", ast.unparse(node.annotation)
                if kind in classes:
                    found[key] = one_line(ast.get_docstring(classes[kind]))
                    found |= walk(kind, f"{key}.")
                else:
                    found[key] = one_line(ast.literal_eval(after.value))
        return found

    return walk("RunConfig", "")


def one_line(text: str) -> str:
    """Without line breaks."""
    return " ".join(text.split())


def plain(value: object) -> str:
    """As a person writes it in yaml."""
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    return f"[{', '.join(map(plain, value))}]" if isinstance(value, list) else str(value)


def main() -> int:
    """Exit code 1: ``--check`` found a difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page differs")
    check = parser.parse_args().check
    made = page()
    if not check:
        PAGE.write_text(made)
    elif not PAGE.exists() or PAGE.read_text() != made:
        print(f"{PAGE} is not up to date: run python docs/make_config.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
