"""README.md of a synthetic set: what it states, and that no name of a stranger changes its form."""

import re
from dataclasses import replace
from itertools import pairwise

import pytest
import yaml

from dist_condense.data.catalogue import KNOWN, open_dataset
from dist_condense.data.image_set import NOT_STATED, ClassName
from dist_condense.engine.procedure import Units
from dist_condense.evaluation.protocols import PROTOCOLS
from dist_condense.evaluation.rows import Row
from dist_condense.result.card import CardClass
from dist_condense.result.readme import licence_of, text_of
from dist_condense.settings import config as configs
from dist_condense.system.terminal import printable
from tests.result.test_report import ROWS
from tests.result.test_synthetic_set import a_card

UNITS = Units({"network": 20, "matching step": 10})
HOSTILE = (
    "a\n---\nlicense: mit\n# h\n| x | y |\n```\n<script>x</script> <!-- ![i](https://e.org/i.png) [l](//e.org) `c` *b* "
    "www.e.org &lt; $x$ me@e.org ${oc.env:HOME} \x1b[2J \u202e \udce9 https://u:s3cretpw@e.org/"
)
SECTIONS = ["Loading", "Recipe to train with", "Scores", "Licence of the source", "How it was made"]


@pytest.fixture(scope="module")
def digits():
    return open_dataset("digits", None)


def page(digits, card=None, rows=(), given=()):
    config = configs.load("configs/digits.yaml", given)
    return text_of(card or a_card(2).filled("0" * 64), config, digits, UNITS, rows)


def header(text):
    return yaml.safe_load(text.split("---\n")[1])


def values(text):
    """Return the cells of tables with two columns, by the first."""
    return dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE))


def test_the_header_is_that_of_a_data_set_card(digits):
    assert header(page(digits)) == {
        "license": "cc-by-4.0",
        "task_categories": ["image-classification"],
        "tags": ["dataset-condensation", "dataset-distillation", "dist-condense"],
        "size_categories": ["n<1K"],
        "pretty_name": "digits, condensed by idc, ipc 2",
    }
    for ipc, category in ((83, "n<1K"), (84, "1K<n<10K"), (100_000, "1M<n<10M")):
        assert header(page(digits, a_card(2, ipc=ipc).filled("")))["size_categories"] == [category]


def test_the_page_states_what_the_set_is(digits):
    text = page(digits)
    facts = values(text)
    assert facts["images"] == "6, 2 per class, decoded to 24: each consists of 2 x 2 tiles"
    assert facts["shape of an image"] == "3 x 9 x 9 (channels, height, width), float32"
    assert facts["stored values"].startswith("`unit`: as in images, not clipped (real images are from 0 to 1);")
    assert facts["classes"] == "3: class 0, class 1, class 2"
    assert facts["state"] == "**not complete**: made by 30 of 200 steps (20 networks x 10 matching steps)"
    assert "![Preview](preview.png)" in text and "from load import load" in text and "load_set(" in text
    assert "distribute" in text and re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS
    selected = text_of(a_card().filled(""), configs.load("configs/digits.yaml"), digits, Units({"class": 30}), ())
    assert values(selected)["progress"] == "30 of 30 steps (30 classes), not complete"
    many = page(digits, a_card(classes=100).filled(""))
    assert values(many)["classes"].endswith("class 19 and 80 more, see card.json")


def test_balanced_accuracy_is_stated_only_where_it_differs(digits):
    assert "alanced" not in page(digits, rows=ROWS)
    text = page(digits, rows=[replace(row, balanced=25.0) for row in ROWS])
    assert "| top-1, % | networks | balanced, % |" in text and "| 62.0 ± 2.8 | 2 | 25.0 ± 0.0 |" in text


def test_the_scores_are_those_of_the_rows(digits):
    text = page(digits)
    assert "Not evaluated yet." in text
    text = page(digits, rows=ROWS)
    assert "Not evaluated" not in text
    assert "| random | convnet3 | dc | 300 | 62.0 ± 2.8 | 2 |" in text
    assert "| condensed | convnet3 | dc | 300 | 84.0 | 1 |" in text


def test_the_recipe_states_the_values_of_the_protocol(digits):
    given = ["evaluation.protocol=idc", "evaluation.epochs=null", "evaluation.architectures=[network,densenet121]"]
    facts = values(page(digits, a_card(2, ipc=50).filled(""), given=given))
    assert facts["epochs of convnet:width=32:depth=2"] == "1,000" and facts["epochs of densenet121"] == "400"
    assert facts["learning rate of densenet121"] == "0.01; 0.002 from epoch 266; 0.0004 from epoch 333 (counted from 0)"
    assert facts["augmentation"] == "color on each image; one of crop, scale, rotate, drawn for each batch"  # no flip
    assert facts["CutMix"] == "with probability 0.5 per batch"
    assert facts["optimiser"] == "SGD, momentum 0.9, weight decay 0.0005"
    facts = values(page(digits, given=["evaluation.protocol=dc", "evaluation.epochs=20"]))
    assert facts["learning rate"] == "0.01; 0.001 from epoch 12 (counted from 0)"
    assert facts["epochs"] == "20, and 1 more at the last learning rate"
    assert facts["optimiser"].endswith("created anew when the learning rate changes")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_is_described_in_words(digits, name):
    facts = values(page(digits, given=[f"evaluation.protocol={name}", "evaluation.epochs=null"]))
    assert facts["protocol"] == f"`{name}`" and "0x" not in str(facts) and "(" not in facts["augmentation"]


def test_a_hostile_name_is_text_and_changes_no_form(digits):
    markdown = pytest.importorskip("markdown_it")
    named = replace(
        a_card(),
        method=HOSTILE,
        dataset=HOSTILE,
        classes=[CardClass(label, f"{HOSTILE}{label}") for label in range(3)],
    )
    row = Row(set=HOSTILE, protocol=HOSTILE, architecture=HOSTILE, seed=0, epochs=1, top1_last=5.0, top1_best=None)
    given = {"dataset": {"name": "digits", "classes": [HOSTILE]}, "method.name": "```\n# h\n```` x"}
    card = replace(named.filled(""), code_commit=HOSTILE, versions={HOSTILE: HOSTILE})
    given["dataset"]["classes"] = ["```\n# h\n```` x \u202e"]
    config = configs.from_dict(given)
    text = text_of(card, config, digits, UNITS, [row])

    assert set(header(text)) == {"license", "task_categories", "tags", "size_categories", "pretty_name"}
    assert header(text)["license"] == "cc-by-4.0"
    assert printable(text, kept="\n") == text and "s3cretpw" not in text and text.encode()
    body = text.split("---\n", 2)[2]
    tokens = markdown.MarkdownIt("commonmark").enable("table").parse(body)
    inline = [child for token in tokens for child in token.children or []]
    kinds = {token.type for token in (*tokens, *inline)}
    assert not {"html_block", "html_inline", "link_open"} & kinds
    assert [child.attrs["src"] for child in inline if child.type == "image"] == ["preview.png"]
    titles = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    assert titles[1:] == SECTIONS and len([token for token in tokens if token.type == "fence"]) == 4
    [cells] = [token.content for token in tokens if token.type == "inline" and token.content.startswith("5.0")]
    assert cells == "5.0" and sum(token.type == "table_open" for token in tokens) == 4
    shown = "".join(child.content for child in inline if child.type == "text")
    assert "<script>x</script>" in shown and "![i](" in shown and "&lt;" in shown
    assert not re.search(r"(?<!\\)(https?:/|www\.|[$@])", re.sub(r"```.*?```", "", body, flags=re.DOTALL))


def test_every_data_set_states_its_licence(digits):
    assert {name: known.facts.licence.name for name, known in KNOWN.items()} == {
        "digits": "CC-BY-4.0",
        "mnist": "CC-BY-SA-3.0",
        "fashion_mnist": "MIT",
        "svhn": "other",
        "cifar10": "unknown",
        "cifar100": "unknown",
        "imagenet": "other",
        "image_folder": "unknown",
        "arrays": "unknown",
        "huggingface": "unknown",
    }
    own = replace(digits, facts=KNOWN["image_folder"].facts)
    assert licence_of(own) is NOT_STATED
    named = replace(own, classes=(ClassName("tench", "n01440764"),))
    assert licence_of(named).name == "unknown" and "non-commercial" in licence_of(named).terms
