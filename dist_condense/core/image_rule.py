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
    """

    lr: float
    momentum: float
    shared_buffer: int = 1

    def effective(self) -> tuple[float, float]:
        """Return the effective (learning rate, momentum) of one class."""
        m, n = self.momentum, self.shared_buffer
        return (self.lr * sum(m**i for i in range(n)), m**n)


def updated(
    rules: Mapping[str, ImageRule], learnt: Learnt, buffers: Learnt, *, gradients: Learnt, finite: Tensor
) -> tuple[Learnt, Learnt, Tensor]:
    """Return the learnt tensors of a class and their momentum after an update, unless a number is not finite.

    The whole update is skipped if any new value is not finite or ``finite`` is false; the device decides this, so the
    host does not wait. The arguments are not changed.

    :param buffers: momentum by name.
    :param finite: boolean tensor, whether the tensors from which the gradients are computed are finite.
    :returns: new learnt tensors, new momentum, and a boolean tensor, whether the update was made.
    """
    moved, made = {}, finite
    for name, rule in rules.items():
        lr, momentum = rule.effective()
        moved[name] = momentum * buffers[name] + gradients[name]
        made = made & (learnt[name] - lr * moved[name]).isfinite().all()
    kept = {name: torch.where(made, moved[name], buffers[name]) for name in rules}
    steps = {name: (rule.effective()[0] * kept[name]).masked_fill(~made, 0) for name, rule in rules.items()}
    return {name: learnt[name] - step for name, step in steps.items()}, kept, made
