"""load.py, a file of a synthetic set that loads the set with torch and safetensors alone.

Its decoding is that of ``how_to_load`` in card.json. This package writes the file and never executes it.
"""

from __future__ import annotations

from textwrap import indent

from dist_condense.result.card import DECODING, IMPORTS

LOADER = "load.py"
TEXT = f'''\
"""Load the condensed set beside this file with torch and safetensors: `from load import load; images, labels = load()`.

`python load.py` prints its shapes and classes.
"""
{IMPORTS}

def load(folder=Path(__file__).resolve().parent):
    """Return normalised images, float32 [N, C, H, W], and labels: int64 [N], or class probabilities [N, classes]."""
{indent(DECODING, "    ")}    return x, y


if __name__ == "__main__":
    images, labels = load()
    print("images", list(images.shape), "labels", list(labels.shape))
    card = json.loads(Path(__file__).resolve().with_name("card.json").read_text(encoding="utf-8"))
    print("classes", [entry["name"] for entry in card["classes"]])
'''
"""Content of load.py."""
