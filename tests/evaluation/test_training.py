"""Training of one network on one set."""

import warnings
from dataclasses import replace

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from dist_condense import networks
from dist_condense.data.normalise import to_values
from dist_condense.data.reading.source import LabelledImages
from dist_condense.evaluation.evaluate import TrainingSet
from dist_condense.evaluation.protocols import PROTOCOLS
from dist_condense.evaluation.training import Score, balanced, correct_by_class, train_and_test

from .toy import STATISTICS, labelled


def trained(seed=0, name="idc", epochs=4, images=None, test=None, **more):
    train = labelled(8, 1)
    chosen = TrainingSet(train.images if images is None else images, train.labels)
    network = networks.build("convnet", channels=1, size=8, classes=2, seed=0, width=4, depth=1)
    score = train_and_test(
        chosen.batches(STATISTICS, "cpu"),
        train.labels,
        test=test or labelled(20, 2),
        statistics=STATISTICS,
        network=network,
        protocol=replace(PROTOCOLS[name], batch=4),
        seed=seed,
        epochs=epochs,
        **more,
    )
    return score, torch.cat([p.detach().flatten() for p in network.parameters()])


@pytest.mark.parametrize("name", [n for n in PROTOCOLS if "imagenet" not in n])
def test_same_seed_same_network_other_seed_another(name):
    first, again, other = trained(3, name), trained(3, name), trained(4, name)
    assert first[0] == again[0]
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


def test_a_separable_set_is_learnt():
    score, _ = trained(name="dc", epochs=60)
    assert score == Score(top1_last=100.0, top1_best=100.0, epochs=60, balanced=100.0, correct=(20, 20))


@pytest.mark.parametrize("counts", [(30, 30, 30), (50, 1, 9), (3, 0, 40)])
def test_balanced_accuracy_is_that_of_scikit_learn(counts):
    labels = torch.arange(3).repeat_interleave(torch.tensor(counts))
    for seed in range(20):
        guess = torch.randint(0, 3, labels.shape, generator=torch.Generator().manual_seed(seed))
        correct = labels[guess == labels].bincount(minlength=3).tolist()
        with warnings.catch_warnings(action="ignore"):  # of guesses that are no label
            expected = 100 * balanced_accuracy_score(labels, guess)
        assert balanced(correct, counts) == pytest.approx(expected, abs=5.1e-5)
        if len(set(counts)) == 1:
            assert balanced(correct, counts) == round(100 * sum(correct) / sum(counts), 4)


def test_accuracy_by_class_of_unequal_classes():
    """Each class has its own test images; the network always answers 0."""
    images = labelled(8, 1)
    test = LabelledImages(images.images[:10], images.labels[:10])
    zero = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    torch.nn.init.zeros_(zero[1].weight)
    zero[1].bias.data = torch.tensor([1.0, 0.0])
    assert correct_by_class(zero, test, STATISTICS, 2) == [8, 0]
    score, _ = trained(test=test, epochs=1)
    assert 10 * score.top1_last == 100 * sum(score.correct)
    assert score.balanced == 100 * (score.correct[0] / 8 + score.correct[1] / 2) / 2


def test_bytes_and_normalised_floats_give_the_same_network():
    floats = STATISTICS.normalise(to_values(labelled(8, 1).images))
    assert torch.equal(trained()[1], trained(images=floats)[1])


def test_no_epochs_are_refused():
    with pytest.raises(ValueError, match="0 epochs; give at least 1"):
        trained(epochs=0)


def test_layers_that_draw_by_themselves_are_keyed_too():
    """Dropout uses torch's global generator, whose state depends on earlier code."""

    def weights(seed, state):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        generator = torch.Generator().manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(64, 2))
        for parameter in network.parameters():
            parameter.data.normal_(generator=generator)
        train, protocol = labelled(8, 1), replace(PROTOCOLS["dc"], batch=4)
        images = TrainingSet(train.images, train.labels).batches(STATISTICS, "cpu")
        torch.set_rng_state(before)
        train_and_test(
            images,
            train.labels,
            test=labelled(4, 2),
            statistics=STATISTICS,
            network=network,
            protocol=protocol,
            seed=seed,
            epochs=3,
        )
        assert torch.equal(torch.get_rng_state(), before), "the caller's generator is as it was"
        return network[2].weight.detach()

    assert torch.equal(weights(1, state=5), weights(1, state=6))
    assert not torch.equal(weights(1, state=5), weights(2, state=5))
