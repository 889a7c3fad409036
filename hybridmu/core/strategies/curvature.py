"""Gauss-Newton products of a network with its loss, and solving with them.

G = (1/m) Σ_x J_xᵀ (diag p_x − p_x p_xᵀ) J_x, with J_x the Jacobian of the logits and p_x the predicted probabilities
of softmax cross entropy (Schraudolph 2002). Of a loss of values, the matrix in the middle is the second derivative of
a row's loss by its value: 2/d² for squared errors in units of d, so that G = (2/m) Σ_x J_xᵀ J_x / d². G is never
formed: a product with a vector costs about two gradients of the m rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.autograd import grad

from hybridmu.core.kernel.gradients import are_those_of, plain_layers
from hybridmu.core.kernel.model import Standardize

Product = Callable[[Sequence[Tensor]], list[Tensor]]
# Answers [m, width] → second derivative of every row's loss by its value, the first of the answers; [m].
Bends = Callable[[Tensor], Tensor]


def gauss_newton(model: nn.Module, x: Tensor, bends: Bends | None = None) -> Product:
    """Return v ↦ G·v at the current weights.

    Args:
        model: Maps x to answers; it is put into evaluation mode.
        x: float32 [m, features], m ≥ 1.
        bends: Of a loss of values; None: answers are logits, and the loss is softmax cross entropy.

    Returns:
        A function over lists of tensors, one per trained parameter in the order of `model.parameters()`.
    """
    model.eval()
    if bends is not None:
        return _by_autograd(model, x, bends)
    layers, parameters = plain_layers(model), [one for one in model.parameters() if one.requires_grad]
    return _by_hand(layers, x) if layers and are_those_of(layers, parameters) else _by_autograd(model, x)


def solve(product: Product, right: Sequence[Tensor], shift: float, steps: int) -> list[Tensor]:
    """Return an approximate solution y of (I + shift·G) y = right by conjugate gradients.

    Args:
        product: v ↦ G·v, with G symmetric and not negative.
        right: Right-hand side.
        shift: At least 0.
        steps: Products that are spent at most; every step brings y nearer to the solution (Hestenes, Stiefel 1952).

    Returns:
        One tensor per tensor of `right`.
    """
    found = [torch.zeros_like(part) for part in right]
    rest = [part.clone() for part in right]
    direction = [part.clone() for part in right]
    image = [torch.empty_like(part) for part in right]
    size = first = _dot(rest, rest)
    for _ in range(steps):
        if size <= 1e-12 * first:  # nothing to remove, or solved to float32's precision
            break
        for made, part, bent in zip(image, direction, product(direction), strict=True):
            torch.mul(bent, shift, out=made).add_(part)
        length = size / _dot(direction, image)
        for y, r, d, a in zip(found, rest, direction, image, strict=True):
            y.add_(d, alpha=length)
            r.sub_(a, alpha=length)
        left = _dot(rest, rest)
        for r, d in zip(rest, direction, strict=True):
            torch.add(r, d, alpha=left / size, out=d)
        size = left
    return found


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return sum(float(torch.dot(x.reshape(-1), y.reshape(-1))) for x, y in zip(a, b, strict=True))


@torch.no_grad()
def _by_hand(layers: Sequence[nn.Module], x: Tensor) -> Product:
    """Return the product for a plain network: one pass forward and one back over saved activations."""
    inputs = [layers[0](x) if isinstance(layers[0], Standardize) else x]
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    for layer in linear[:-1]:
        inputs.append(layer(inputs[-1]).relu())
    active = [given > 0 for given in inputs[1:]]
    p = linear[-1](inputs[-1]).softmax(dim=1)
    weights = [layer.weight.detach() for layer in linear]
    rows = len(x)

    @torch.no_grad()
    def product(vector: Sequence[Tensor]) -> list[Tensor]:
        change = torch.addmm(vector[1], inputs[0], vector[0].t())
        for number in range(1, len(linear)):
            change.mul_(active[number - 1])
            across = torch.addmm(vector[2 * number + 1], inputs[number], vector[2 * number].t())
            change = across.addmm_(change, weights[number].t())
        bent = p * change
        delta = (bent - p * bent.sum(dim=1, keepdim=True)) / rows
        found = [Tensor()] * (2 * len(linear))
        for number in range(len(linear) - 1, -1, -1):
            found[2 * number] = delta.t().mm(inputs[number])
            found[2 * number + 1] = delta.sum(dim=0)
            if number:
                delta = delta.mm(weights[number]).mul_(active[number - 1])
        return found

    return product


def _by_autograd(model: nn.Module, x: Tensor, bends: Bends | None = None) -> Product:
    """Return the product for any network: J·v as the derivative of Jᵀ·u by u, since that works for every layer."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    values = model(x)
    weigh = _softmax(values.detach()) if bends is None else _of_value(bends(values.detach()))
    probe = torch.zeros_like(values, requires_grad=True)
    transposed = grad(values, parameters, probe, create_graph=True, materialize_grads=True)

    def product(vector: Sequence[Tensor]) -> list[Tensor]:
        (change,) = grad(transposed, probe, list(vector), retain_graph=True)
        weighted = weigh(change) / len(x)
        return list(grad(values, parameters, weighted, retain_graph=True, materialize_grads=True))

    return product


def _softmax(logits: Tensor) -> Callable[[Tensor], Tensor]:
    p = logits.softmax(dim=1)

    def weigh(change: Tensor) -> Tensor:
        bent = p * change
        return bent - p * bent.sum(dim=1, keepdim=True)

    return weigh


def _of_value(second: Tensor) -> Callable[[Tensor], Tensor]:
    def weigh(change: Tensor) -> Tensor:
        return torch.cat([(second * change[:, 0])[:, None], torch.zeros_like(change[:, 1:])], dim=1)

    return weigh
