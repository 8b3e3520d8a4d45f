"""Named subsets of ImageNet's classes in label order.

imagenet100_idc, and imagenet10_idc (its first ten classes): Kim et al. 2022 (IDC).
dcc_*: the fine-grained groups of Lee et al. 2022 (DCC).
"""

from collections.abc import Mapping
from types import MappingProxyType

_IDC = """
n02869837 n01749939 n02488291 n02107142 n13037406 n02091831 n04517823 n04589890 n03062245 n01773797
n01735189 n07831146 n07753275 n03085013 n04485082 n02105505 n01983481 n02788148 n03530642 n04435653
n02086910 n02859443 n13040303 n03594734 n02085620 n02099849 n01558993 n04493381 n02109047 n04111531
n02877765 n04429376 n02009229 n01978455 n02106550 n01820546 n01692333 n07714571 n02974003 n02114855
n03785016 n03764736 n03775546 n02087046 n07836838 n04099969 n04592741 n03891251 n02701002 n03379051
n02259212 n07715103 n03947888 n04026417 n02326432 n03637318 n01980166 n02113799 n02086240 n03903868
n02483362 n04127249 n02089973 n03017168 n02093428 n02804414 n02396427 n04418357 n02172182 n01729322
n02113978 n03787032 n02089867 n02119022 n03777754 n04238763 n02231487 n03032252 n02138441 n02104029
n03837869 n03494278 n04136333 n03794056 n03492542 n02018207 n04067472 n03930630 n03584829 n02123045
n04229816 n02100583 n03642806 n04336792 n03259280 n02116738 n02108089 n03424325 n01855672 n02090622
"""

# One line per class: WordNet id, and a name for readers.
_DCC = {
    "dcc_automobile": """
        n02814533 beach_wagon
        n03100240 convertible
        n04285008 sports_car
        n02701002 ambulance
        n03594945 jeep
        n03670208 limousine
        n04037443 racer
        n02930766 cab
        n03777568 Model_T
    """,
    "dcc_terrier": """
        n02095570 Lakeland_terrier
        n02097298 Scotch_terrier
        n02096177 cairn
        n02096051 Airedale
        n02097474 Tibetan_terrier
        n02094433 Yorkshire_terrier
        n02094114 Norfolk_terrier
        n02093256 Staffordshire_bullterrier
        n02095889 Sealyham_terrier
        n02097209 standard_schnauzer
        n02094258 Norwich_terrier
        n02093647 Bedlington_terrier
        n02098413 Lhasa
        n02093991 Irish_terrier
        n02097658 silky_terrier
        n02096437 Dandie_Dinmont
        n02096585 Boston_bull
        n02093754 Border_terrier
        n02098105 soft-coated_wheaten_terrier
        n02096294 Australian_terrier
        n02093428 American_Staffordshire_terrier
        n02098286 West_Highland_white_terrier
        n02097130 giant_schnauzer
        n02097047 miniature_schnauzer
        n02093859 Kerry_blue_terrier
        n02095314 wire-haired_fox_terrier
    """,
    "dcc_fish": """
        n01440764 tench
        n01498041 stingray
        n01491361 tiger_shark
        n02514041 barracouta
        n02536864 coho
        n02641379 gar
        n01496331 electric_ray
        n01484850 great_white_shark
        n02640242 sturgeon
        n02655020 puffer
        n02607072 anemone_fish
        n01443537 goldfish
        n02526121 eel
        n02606052 rock_beauty
        n02643566 lionfish
        n01494475 hammerhead
    """,
    "dcc_truck": """
        n03930630 pickup
        n03977966 police_van
        n04467665 trailer_truck
        n03770679 minivan
        n03796401 moving_van
        n04461696 tow_truck
        n03345487 fire_engine
        n03417042 garbage_truck
        n04465501 tractor
    """,
    "dcc_lizard": """
        n01687978 agama
        n01675722 banded_gecko
        n01695060 Komodo_dragon
        n01688243 frilled_lizard
        n01694178 African_chameleon
        n01682714 American_chameleon
        n01693334 green_lizard
        n01685808 whiptail
        n01677366 common_iguana
        n01689811 alligator_lizard
        n01692333 Gila_monster
    """,
    "dcc_insect": """
        n02229544 cricket
        n02219486 ant
        n02259212 leafhopper
        n02231487 walking_stick
        n02226429 grasshopper
        n02172182 dung_beetle
        n02165105 tiger_beetle
        n02264363 lacewing
        n02174001 rhinoceros_beetle
        n02277742 ringlet
        n02168699 long-horned_beetle
        n02165456 ladybug
        n02167151 ground_beetle
        n02256656 cicada
        n02280649 cabbage_butterfly
        n02169497 leaf_beetle
        n02281787 lycaenid
        n02206856 bee
        n02279972 monarch
        n02268853 damselfly
        n02276258 admiral
        n02281406 sulphur_butterfly
        n02268443 dragonfly
        n02190166 fly
        n02177972 weevil
        n02233338 cockroach
        n02236044 mantis
    """,
}


def _wnids(lines: str) -> tuple[str, ...]:
    return tuple(line.split()[0] for line in lines.strip().splitlines())


SUBSETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "imagenet10_idc": tuple(_IDC.split()[:10]),
        "imagenet100_idc": tuple(_IDC.split()),
        **{name: _wnids(lines) for name, lines in _DCC.items()},
    }
)
"""WordNet ids of each named subset, in label order."""

MEASURED_SUBSETS = frozenset(_DCC)
"""Subsets that DCC normalises by mean and std of their own images, which have to be measured."""
