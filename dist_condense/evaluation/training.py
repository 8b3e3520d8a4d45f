"""Training of one network on a set, and its test; on one type of device, the seed determines the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from dist_condense.core import cutmix, randomness
from dist_condense.data.normalise import ChannelStatistics, to_values
from dist_condense.data.reading.source import TestImages
from dist_condense.evaluation.protocols import Protocol
from dist_condense.system.transfer import to_device, together

Images = Callable[[Tensor], Tensor]
"""Function from positions, int64 ``[B]`` on the CPU, to images ``[B, C, h, w]`` in normalised space.

A large set can thus stay in its stored form, and is normalised batch by batch.
"""
TEST_CHUNK = 256


@dataclass(frozen=True)
class Score:
    """Top-1 accuracies on the test set in percent, rounded to four decimals."""

    top1_last: float
    """Accuracy after the last epoch; this is the reported result."""
    top1_best: float
    """Best accuracy of the protocol's test evaluations, which is therefore selected on the test set."""
    epochs: int
    """Number of epochs E, without the protocol's extra epochs."""
    balanced: float
    """Mean over the classes with test images of the accuracy on each class after the last epoch."""
    correct: tuple[int, ...]
    """Number of correctly classified test images of each class after the last epoch, by label."""


def train_and_test(
    images: Images,
    labels: Tensor,
    *,
    test: TestImages,
    statistics: ChannelStatistics,
    network: nn.Module,
    protocol: Protocol,
    seed: int,
    epochs: int | None = None,
    device: torch.device | str = "cpu",
) -> Score:
    """Train ``network`` in place on ``images`` with ``labels``, and test it; ``seed`` determines all random draws.

    :param images: function from positions to normalised training images.
    :param labels: int64 ``[N]`` or class probabilities ``[N, classes]``.
    :param test: test images with their labels.
    :param statistics: channel statistics for the normalisation of test images.
    :param epochs: number of epochs E; None for the protocol's number for these labels.
    :raises ValueError: ``epochs`` is below 1.
    """
    epochs = protocol.epochs_for(labels) if epochs is None else epochs
    if epochs < 1:
        raise ValueError(f"train_and_test: {epochs} epochs; give at least 1, or None for the protocol's own.")
    network.to(device)
    course = Course(
        network=network,
        protocol=protocol,
        images=images,
        labels=labels,
        statistics=statistics,
        seed=seed,
        device=torch.device(device),
    )
    total = epochs + protocol.extra_epochs
    tested_after = {total * i // protocol.evaluations for i in range(1, protocol.evaluations + 1)}
    counts, tested = test.labels.bincount().tolist(), list[list[int]]()
    for epoch in range(total):
        course.run_epoch(epoch, protocol.schedule(epoch, epochs))
        if epoch + 1 in tested_after:
            tested.append(correct_by_class(network, test, statistics, len(counts), device))
    scores = [round(100 * sum(correct) / sum(counts), 4) for correct in tested]
    return Score(scores[-1], max(scores), epochs, balanced(tested[-1], counts), tuple(tested[-1]))


class Course:
    """Training of one network, epoch by epoch."""

    def __init__(
        self,
        *,
        network: nn.Module,
        protocol: Protocol,
        images: Images,
        labels: Tensor,
        statistics: ChannelStatistics,
        seed: int,
        device: torch.device,
    ) -> None:
        self.network, self.protocol, self.images, self.labels = network, protocol, images, labels
        self.statistics, self.seed, self.device = statistics, seed, device
        self.factor = 1.0
        self.optimiser = self._new_optimiser()

    def run_epoch(self, epoch: int, factor: float) -> None:
        """Train for one shuffled epoch, at ``factor`` times the protocol's learning rate."""
        self._set_factor(factor)
        self.network.train()
        order = randomness.permutation(len(self.labels), self.seed, "evaluation order", epoch)
        with randomness.layers_keyed(self.device, self.seed, "evaluation layers", epoch):
            for u, positions in enumerate(order.split(self.protocol.batch)):
                self.optimiser.zero_grad()
                self._loss(positions, epoch, u).backward()
                self.optimiser.step()

    def _loss(self, positions: Tensor, epoch: int, u: int) -> Tensor:
        generator = randomness.generator(self.seed, "evaluation augmentation", epoch, u)
        images, labels = to_device(self.images(positions), self.device), self.labels[positions]
        images = self.protocol.augmentation(images, generator, self.statistics)
        size = (images.shape[-2], images.shape[-1])
        mix = cutmix.draw_cutmix(self.protocol.cutmix, len(images), size, generator)
        labels, mix = together((labels, mix), self.device)
        if not self.protocol.cutmix:
            return cutmix.mixed_loss(self.network(images), labels, None, None).mean()
        return cutmix.mixed_loss(self.network(mix.images(images)), labels, labels[mix.partner], mix.weight).mean()

    def _set_factor(self, factor: float) -> None:
        if factor == self.factor:
            return
        self.factor = factor
        if self.protocol.reset_momentum:
            self.optimiser = self._new_optimiser()
        for group in self.optimiser.param_groups:
            group["lr"] = self.protocol.lr * factor

    def _new_optimiser(self) -> torch.optim.SGD:
        p = self.protocol
        return torch.optim.SGD(
            self.network.parameters(),
            p.lr * self.factor,
            momentum=p.momentum,
            weight_decay=p.weight_decay,
        )


@torch.inference_mode()
def correct_by_class(
    network: nn.Module,
    test: TestImages,
    statistics: ChannelStatistics,
    classes: int,
    device: torch.device | str = "cpu",
) -> list[int]:
    """Return the number of test images of each class that a network in evaluation mode classifies correctly.

    Test images are normalised chunk by chunk.

    :param classes: number of classes; no label is above.
    """
    network.eval()
    correct = torch.zeros(classes, dtype=torch.int64, device=device)
    for images, labels in test.chunks(TEST_CHUNK):
        labels = labels.to(device)
        logits = network(statistics.normalise(to_values(images.to(device))))
        correct.index_add_(0, labels, (logits.argmax(1) == labels).long())
    return correct.tolist()


def balanced(correct: Sequence[int], images: Sequence[int]) -> float:
    """Return the mean over classes of the accuracy on each class, in percent, exact but for rounding to four decimals.

    If all classes have as many images, it equals the accuracy over all images.

    :param correct: number of correctly classified images of each class.
    :param images: number of images of each class; classes without images are left out.
    """
    shares = [Fraction(100 * right, count) for right, count in zip(correct, images, strict=True) if count]
    return round(float(sum(shares, Fraction()) / len(shares)), 4)
