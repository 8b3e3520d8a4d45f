"""The published lists of ImageNet classes."""

import re

from dist_condense.data import SUBSETS


def test_idc_lists() -> None:
    assert len(SUBSETS["imagenet100_idc"]) == 100
    assert SUBSETS["imagenet10_idc"] == SUBSETS["imagenet100_idc"][:10]


def test_dcc_groups() -> None:
    sizes = {name: len(wnids) for name, wnids in SUBSETS.items() if name.startswith("dcc")}
    assert sizes == {
        "dcc_automobile": 9,
        "dcc_terrier": 26,
        "dcc_fish": 16,
        "dcc_truck": 9,
        "dcc_lizard": 11,
        "dcc_insect": 27,
    }


def test_every_entry_is_a_wordnet_id_named_once() -> None:
    for wnids in SUBSETS.values():
        assert len(set(wnids)) == len(wnids)
        assert all(re.fullmatch(r"n\d{8}", wnid) for wnid in wnids)
