"""Update rule of the learnt tensors of a class: SGD, with IDC's shared momentum buffer in closed form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Learnt = dict[str, Tensor]
"""Learnt tensors of a class by name: ``pixels`` ``[ipc, C, h, w]`` and, where labels are learnt, ``labels`` ``[ipc,
classes]``: scores whose softmax is an image's label. Gradients and momentum use the same names.
"""


@dataclass(frozen=True)
class ImageRule:
    """SGD on one learnt tensor of one class.

    :param shared_buffer: number n of classes that share one momentum buffer; 1: every class has its own (DC, DSA, DCC,
        DM). IDC's program steps the shared buffer once per class, so each class effectively sees SGD with momentum m**n
        and learning rate lr * (1 - m**n) / (1 - m), where m is ``momentum``. Deviation: where pixels are clamped and at
        the very end, the program has not yet stepped the buffer for all classes, so its last classes are up to half a
        step behind.
    :param reference_ipc: number of images per class for which ``lr`` is stated; it is multiplied by the number of
        images of the class divided by this number, as IDC's is. None: ``lr`` holds for any number.
    :param scale: further factor of the learning rate.
    """

    lr: float
    momentum: float
    shared_buffer: int = 1
    reference_ipc: int | None = None
    scale: float = 1.0

    def rate(self, images: int) -> float:
        """Return the learning rate of a class with ``images`` learnt images."""
        return self.lr * (images / self.reference_ipc if self.reference_ipc else 1.0) * self.scale

    def effective(self, images: int) -> tuple[float, float]:
        """Return the effective (learning rate, momentum) of a class with ``images`` learnt images."""
        m, n = self.momentum, self.shared_buffer
        return (self.rate(images) * sum(m**i for i in range(n)), m**n)


def updated(
    rules: Mapping[str, ImageRule], learnt: Learnt, buffers: Learnt, *, gradients: Learnt, finite: Tensor
) -> tuple[Learnt, Learnt, Tensor]:
    """Return the learnt tensors of a class and their momentum after an update, as :func:`update_` makes it.

    The arguments are not changed.

    :returns: new learnt tensors, new momentum, and a boolean tensor, whether the update was made.
    """
    new, kept = ({name: x.clone() for name, x in tensors.items()} for tensors in (learnt, buffers))
    made = update_(rules, new, kept, gradients=gradients, finite=finite)
    return new, kept, made


def update_(
    rules: Mapping[str, ImageRule],
    learnt: Learnt,
    buffers: Learnt,
    *,
    gradients: Learnt,
    finite: Tensor,
    images: int = 0,
) -> Tensor:
    """Update the learnt tensors of a class and their momentum in place, unless a number is not finite.

    The whole update is skipped if any new value is not finite or ``finite`` is false; the device decides this, so the
    host does not wait.

    :param buffers: momentum by name.
    :param finite: boolean tensor, whether the tensors from which the gradients are computed are finite.
    :param images: number of images that are updated at a time, which bounds the memory; 0: all. Changes no result.
    :returns: boolean tensor, whether the update was made.
    """
    parts, made = [], finite
    for name, rule in rules.items():
        tensors = (x.split(images or len(x)) for x in (learnt[name], buffers[name], gradients[name]))
        parts += [(*rule.effective(len(learnt[name])), *some) for some in zip(*tensors, strict=True)]
    for lr, momentum, x, buffer, gradient in parts:
        made = made & (x - lr * (momentum * buffer + gradient)).isfinite().all()
    for lr, momentum, x, buffer, gradient in parts:
        buffer.copy_(torch.where(made, momentum * buffer + gradient, buffer))
        x.sub_((lr * buffer).masked_fill_(~made, 0))
    return made
