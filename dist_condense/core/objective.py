"""Matching loss:  L(S, theta) = sum_G D( mean_{c in G} phi_c(A(f(S_c))), mean_{c in G} phi_c(A(B_c)) ).

G is a group of classes c, D the distance, phi the statistic, A the augmentation and f the parameterisation; S_c are the
learnt pixels of a class and B_c its real minibatch. The gradient can be computed in two ways with the same result:

* one double backward through a class (:meth:`Objective.match`), for a group of one class;
* two passes for any group, class and microbatch (:meth:`Objective.statistic`, :meth:`Objective.cotangent`,
  :meth:`Objective.pull_back`): with v = dD/d(statistic of S) held fixed, dL/dS = d/dS <phi(S), v>.

With two passes, only a microbatch is decoded, augmented and in the network at once, and statistics are added up as
microbatches and classes pass. So the memory of a step grows neither with the workers, nor with the classes of a group,
nor with the images of a class, except for what exists for each class, images and momentum, and the gradient of one
class. It does grow with the groups, and with phi, which grows with the classes of a classifier.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field

import torch
from torch import Tensor, nn

from dist_condense.core.distance import Compare
from dist_condense.core.program import compiled
from dist_condense.core.statistic import Statistic

Examples = dict[str, Tensor]
"""Inputs of a network for one class: ``images`` ``[n, C, H, W]`` in its (normalised) space, and ``labels``, int64
``[n]`` or class probabilities ``[n, classes]``. Gradients of the floating-point tensors have the same names.
"""

REVERSE, FORWARD = "reverse", "forward"
SECOND_DERIVATIVES: dict[str, bool] = {REVERSE: False, FORWARD: True}
"""Ways to differentiate a derivative, each with the value of :attr:`Objective.forward`."""


@dataclass(frozen=True)
class Objective:
    """A statistic and a distance, evaluated class by class.

    :param microbatch: largest number of images in one pass through the network; 0: all images of a class. The result is
        equal up to the rounding of a sum if the network treats images independently.
    :param autocast: run the network's forward in bfloat16 (``torch.autocast``); sums stay in float32.
    :param compiled: compile the functions of :meth:`statistic` and :meth:`pull_back` with ``torch.compile`` (the first
        call takes up to two minutes).
    :param forward: compute <phi, v> in :meth:`pull_back` by forward differentiation in theta along v, and not from phi,
        a backward pass. The result is the same up to rounding.
    """

    phi: Statistic
    distance: Compare
    _: KW_ONLY
    microbatch: int = 0
    autocast: bool = False
    compiled: bool = False
    forward: bool = False
    _value: Callable[..., list[Tensor]] = field(init=False, repr=False, compare=False)
    _inner: Callable[..., Examples] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.forward:  # torch's own rules of forward differentiation use it
            warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
        value, inner = self._raw_value, torch.func.grad(self._product, argnums=1)
        if self.compiled:
            value, inner = compiled(value, "the statistic"), compiled(inner, "the pull-back")
        object.__setattr__(self, "_value", value)
        object.__setattr__(self, "_inner", inner)

    @property
    def at_once(self) -> bool:
        """Whether :meth:`match` is used for a group of one class: without microbatches and forward differentiation."""
        return not (self.microbatch or self.forward)

    def match(self, network: nn.Module, examples: Examples, b: Sequence[Tensor]) -> tuple[Tensor, Examples]:
        """Return the matching distance of one class and its gradient, by one double backward.

        :param b: statistic of the real images.
        :returns: distance D between the statistic of ``examples`` and ``b``, and the gradient of D with respect to the
            floating-point examples, by name.
        """
        variable, fixed = _variable(examples)

        def loss(variable: Examples) -> Tensor:
            return self.distance(self._raw_phi(network, fixed | variable), b)

        with torch.no_grad():  # torch.func differentiates nevertheless; theta gets no graph
            gradient, value = torch.func.grad_and_value(loss)(variable)
        return value, gradient

    def statistic(self, network: nn.Module, examples: Examples) -> list[Tensor]:
        """Return phi of the examples as detached tensors."""
        return self.mean(network, len(examples["images"]), lambda rows: _rows(examples, rows))

    def mean(self, network: nn.Module, images: int, examples: Callable[[slice], Examples]) -> list[Tensor]:
        """Return phi of ``images`` images as detached tensors: the mean over microbatches, weighted by their sizes.

        :param examples: function that makes the examples of a microbatch, which alone exist at a time.
        """
        total: list[Tensor] = []
        with torch.no_grad():
            for weight, rows in self.microbatches(images):
                part = [weight * x for x in self._value(network, examples(rows))]
                total = [x.add_(y) for x, y in zip(total, part, strict=True)] if total else part
        return total

    def cotangent(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return D(a, b) and v = dD/da for the statistics of a whole group: ``a`` synthetic, ``b`` real."""
        gradient, value = torch.func.grad_and_value(lambda layers: self.distance(layers, b))(list(a))
        return value, list(gradient)

    def pull_back(self, network: nn.Module, examples: Examples, v: Sequence[Tensor]) -> Examples:
        """Return the gradient of <phi(examples), v> with respect to the floating-point examples, with v held fixed.

        :param examples: a microbatch; all its images are in the network at once.
        :returns: the gradient by name.
        """
        with torch.no_grad():
            return self._inner(network, *_variable(examples), list(v))

    def microbatches(self, images: int) -> list[tuple[float, slice]]:
        """Return the rows of each microbatch of ``images`` images, and its fraction of them."""
        size = self.microbatch or images
        parts = [slice(start, min(start + size, images)) for start in range(0, images, size)]
        return [((rows.stop - rows.start) / images, rows) for rows in parts]

    def _raw_phi(self, network: nn.Module, examples: Examples) -> list[Tensor]:
        images, labels = examples["images"], examples["labels"]
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.autocast):
            return [layer.to(images.dtype) for layer in self.phi(network, images, labels)]

    def _raw_value(self, network: nn.Module, examples: Examples) -> list[Tensor]:
        images, labels = examples["images"], examples["labels"]
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.autocast):
            return [layer.to(images.dtype) for layer in self.phi.value(network, images, labels)]

    def _product(self, network: nn.Module, variable: Examples, fixed: Examples, v: list[Tensor]) -> Tensor:
        examples = fixed | variable
        if self.forward:
            images, labels = examples["images"], examples["labels"]
            with torch.autocast(images.device.type, torch.bfloat16, enabled=self.autocast):
                return self.phi.along(network, images, labels, v=v).to(images.dtype)
        layers = self._raw_phi(network, examples)
        return torch.stack([(x * y).sum() for x, y in zip(layers, v, strict=True)]).sum()


def _rows(examples: Examples, rows: slice) -> Examples:
    return {name: x[rows] for name, x in examples.items()}


def _variable(examples: Examples) -> tuple[Examples, Examples]:
    """Split examples into the floating-point tensors, which are differentiated, and the other tensors."""
    variable = {name: x for name, x in examples.items() if x.is_floating_point()}
    return variable, {name: x for name, x in examples.items() if name not in variable}
