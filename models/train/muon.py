"""Muon: momentum whose steps are made orthogonal, for the matrices inside transformer blocks."""

import torch

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic iteration that drives singular values towards 1
ITERATIONS = 5
STEP_RMS = 0.2  # root mean square of a step, so that AdamW's rates fit


def orthogonalized(stack):
    """Matrices [N, rows, columns] with the same singular vectors and singular values near 1."""
    a, b, c = NEWTON_SCHULZ
    x = stack.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.transpose(1, 2) if tall else x


class Muon:
    """Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024."""

    def __init__(self, parameters, momentum=0.95, weight_decay=0.02):
        """parameters: matrices; those of one shape are stepped together."""
        by_shape = {}
        for parameter in parameters:
            by_shape.setdefault(parameter.shape, []).append(parameter)
        self._groups = [
            (group, torch.zeros(len(group), *shape, device=group[0].device))
            for shape, group in by_shape.items()
        ]
        self._momentum = momentum
        self._weight_decay = weight_decay

    @torch.no_grad()
    def step(self, rate):
        for parameters, average in self._groups:
            gradient = torch.stack([parameter.grad for parameter in parameters])
            average.lerp_(gradient, 1 - self._momentum)
            direction = orthogonalized(gradient.lerp(average, self._momentum)).float()
            direction *= STEP_RMS * max(gradient.shape[1:]) ** 0.5
            torch._foreach_mul_(parameters, 1 - rate * self._weight_decay)
            torch._foreach_add_(parameters, list(direction.unbind(0)), alpha=-rate)
