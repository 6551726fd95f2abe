"""Muon: momentum, orthogonalised, for the matrices of a network; AdamW for everything else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast, overload

import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """Muon (Jordan, 2024; scaled as by Liu et al., 2025, section 2.2) with AdamW for vectors.

    A convolution's kernel (K, C, h, w) is taken as the matrix (K, C*h*w), which torch's own Muon does not do.
    The update's root mean square is that of AdamW, so both share one learning rate and one weight decay. A
    parameter may learn at a multiple of that rate (`set_multiplier`).
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        precision: torch.dtype = torch.float32,
    ) -> None:
        """
        Args:
            parameters: what learns; those of two dimensions and more are orthogonalised.
            lr: learning rate of AdamW.
            weight_decay: decoupled, of all.
            momentum: of the matrices.
            betas, eps: of AdamW.
            precision: in which matrices are orthogonalised; bfloat16 is enough (Jordan, 2024).
        """
        self.precision = precision
        defaults = {
            "lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas, "eps": eps
        }  # fmt: skip
        super().__init__(parameters, defaults)

    def set_multiplier(self, parameter: Tensor, multiplier: float) -> None:
        """This parameter learns at `multiplier` times the learning rate; saved with the state."""
        self.state[parameter]["multiplier"] = multiplier

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
            for parameter in cast(list[Tensor], group["params"]):
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                state = self.state[parameter]
                if parameter.ndim > 1:
                    update = _with_momentum(parameter, parameter.grad, state, group)
                    alike.setdefault(update.shape, []).append((parameter, update))
                else:
                    _adam(parameter, parameter.grad, state, group)
            # those of one shape together: many are small
            for (rows, columns), some in alike.items():
                rate = group["lr"] * 0.2 * max(rows, columns) ** 0.5
                steps = orthogonalise(torch.stack([update for _, update in some]), self.precision)
                for (parameter, _), step in zip(some, steps, strict=True):
                    multiplier = self.state[parameter].get("multiplier", 1.0)
                    parameter.add_(step.reshape(parameter.shape), alpha=-rate * multiplier)
        return loss


def orthogonalise(matrices: Tensor, precision: torch.dtype = torch.float32, steps: int = 5) -> Tensor:
    """The nearest matrices (B, M, N) with singular values of about 1, by Newton-Schulz iterations, in and of
    this precision."""
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(precision)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x if wide else x.mT


def _with_momentum(
    parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
) -> Tensor:
    """The gradient with Nesterov's momentum, as a matrix."""
    if "momentum" not in state:
        state["momentum"] = torch.zeros_like(parameter)
    mean = cast(Tensor, state["momentum"])
    mean.lerp_(gradient, 1 - group["momentum"])
    return gradient.lerp(mean, group["momentum"]).flatten(1)


def _adam(parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    if "step" not in state:
        state["step"] = 0
        state["mean"] = torch.zeros_like(parameter)
        state["square"] = torch.zeros_like(parameter)
    first, second = group["betas"]
    state["step"] += 1
    state["mean"].lerp_(gradient, 1 - first)
    state["square"].lerp_(gradient.square(), 1 - second)
    mean = state["mean"] / (1 - first ** state["step"])
    square = state["square"] / (1 - second ** state["step"])
    rate = group["lr"] * state.get("multiplier", 1.0)
    parameter.addcdiv_(mean, square.sqrt().add_(group["eps"]), value=-rate)
