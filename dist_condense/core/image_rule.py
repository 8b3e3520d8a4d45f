"""Update rule of the learnt tensors of a class: SGD, with IDC's shared momentum buffer in closed form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Learnt = dict[str, Tensor]
"""Named tensors of a class: ``pixels`` ``[ipc, C, h, w]``; and ``labels`` ``[ipc, classes]``, scores whose softmax is
the label of an image, where a method learns them. Their gradients and momentum have the same names.
"""


@dataclass(frozen=True)
class ImageRule:
    """SGD on one learnt tensor of one class.

    :param shared_buffer: number of classes that share one momentum buffer. In IDC's program the buffer is stepped once
        per class, so each class effectively sees SGD with momentum m**n and learning rate lr * (1 - m**n) / (1 - m). 1:
        a buffer of its own (DC, DSA, DCC, DM). Deviation: where pixels are clamped and at the very end, the program has
        not yet stepped the buffer for all classes, so that its last classes are up to half a step behind.
    """

    lr: float
    momentum: float
    shared_buffer: int = 1

    def effective(self) -> tuple[float, float]:
        """Return the (learning rate, momentum) that apply to one class."""
        m, n = self.momentum, self.shared_buffer
        return (self.lr * sum(m**i for i in range(n)), m**n)


def update(
    rules: Mapping[str, ImageRule], learnt: Learnt, buffers: Learnt, *, gradients: Learnt, finite: Tensor
) -> Tensor:
    """Update a class in place. The whole update is skipped where any part is not finite or ``finite`` is false; this is
    decided on the device.

    :param buffers: momentum.
    :param finite: truth value, whether the tensors that the gradients come from are finite.
    :returns: truth value, whether the update was made.
    """
    moved, made = {}, finite
    for name, rule in rules.items():
        lr, momentum = rule.effective()
        moved[name] = momentum * buffers[name] + gradients[name]
        made = made & (learnt[name] - lr * moved[name]).isfinite().all()
    for name, rule in rules.items():
        buffers[name].copy_(torch.where(made, moved[name], buffers[name]))
        learnt[name].sub_((rule.effective()[0] * buffers[name]).masked_fill(~made, 0))
    return made
