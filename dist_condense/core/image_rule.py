"""How the pixels of a class move: SGD, with IDC's shared momentum buffer in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageRule:
    """SGD on the pixels of one class.

    :param shared_buffer: number of classes that share one momentum buffer which is stepped once per class, as IDC's
        program does; what a class sees at its visits is SGD with momentum m**n and learning rate
        lr * (1 - m**n) / (1 - m). 1: a buffer of its own (DC, DSA, DCC, DM). A deviation: where pixels are clamped and
        at the very end, the program has not yet stepped the buffer for all classes, so that its last classes are up to
        half a step behind.
    """

    lr: float
    momentum: float
    shared_buffer: int = 1

    def effective(self) -> tuple[float, float]:
        """(learning rate, momentum) as one class sees them."""
        m, n = self.momentum, self.shared_buffer
        return (self.lr * sum(m**i for i in range(n)), m**n)

    def step(self, pixels: Tensor, buffer: Tensor, gradient: Tensor, sound: Tensor) -> Tensor:
        """One update in place, left out where it is not finite or ``sound`` is false: decided on the device.

        :param sound: a truth value, whether what the gradient comes from is finite.
        :returns: whether the update was made.
        """
        lr, momentum = self.effective()
        moved = momentum * buffer + gradient
        made = (pixels - lr * moved).isfinite().all() & sound
        buffer.copy_(torch.where(made, moved, buffer))
        pixels.sub_((lr * buffer).masked_fill(~made, 0))
        return made
