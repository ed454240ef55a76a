"""Muon for the matrices inside the transformers' layers, beside another optimizer for all other weights."""

import math
from typing import Any

import torch
from torch import Tensor, nn


def orthogonalize(matrix: Tensor, steps: int = 5) -> Tensor:
    """
    Replaces the singular values of a matrix by values near 1, by Newton-Schulz iteration.

    Computes in at least float32. PyTorch's own Muon takes bfloat16, which is 2 to 4 times slower on a processor
    without matrix units for it (measured at 96x96 and 96x384).

    Args:
        matrix (`torch.Tensor` of shape `(rows, columns)`): any matrix; of zeros, it stays zeros.
        steps (`int`, defaults to 5): iterations.

    Returns:
        `torch.Tensor` of the same shape, float32 at least: the same singular vectors, singular values of about 0.7 to
        1.2. Source: coefficients of Keller Jordan's Muon, whose quintic trades exactness for speed.

    Example:

    ```python
    >>> import torch
    >>> from scmm.optimizer import orthogonalize
    >>> orthogonalize(torch.diag(torch.tensor([3.0, 2.0]))).diag().round(decimals=1)
    tensor([1.1000, 0.7000])

    ```
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    wide = wide.to(torch.promote_types(matrix.dtype, torch.float32))
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = wide @ wide.mT
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), wide, beta=3.4445)
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.mT


class MuonHybrid(torch.optim.Optimizer):
    """
    Two optimizers in one: Muon for some matrices, the optimizer that had all weights for the rest.

    Muon orthogonalizes the update of a matrix, so that all its directions learn at one pace. Small models that start
    from random weights need far fewer steps with it. It suits matrices inside layers; embeddings, output matrices,
    norms and biases stay with the other optimizer. Its update is as large as AdamW's at the same learning rate: the
    orthogonal matrix times 0.2 times the square root of its longer side. Weight decay is decoupled.

    Source: Muon by Keller Jordan, scaled as in Moonlight; its use for SCMM is this project's choice.

    Args:
        optimizer (`torch.optim.Optimizer`):
            Holds all weights, and keeps those that Muon does not take. Where a group's learning rate is a multiple of
            the optimizer's own, Muon's is the same multiple; weight decay carries over.
        hidden (`set` of `torch.nn.Parameter`): the matrices for Muon.
        learning_rate (`float`): Muon's.
        momentum (`float`, defaults to 0.95): Muon's, in Nesterov's form.

    Raises:
        ValueError: if none of the optimizer's weights is in `hidden`, or one of those is no matrix.

    Example:

    ```python
    >>> import torch
    >>> from scmm.optimizer import MuonHybrid
    >>> layer = torch.nn.Linear(4, 4)
    >>> optimizer = MuonHybrid(torch.optim.AdamW(layer.parameters(), lr=1e-3), {layer.weight}, learning_rate=6e-3)
    >>> [(group["lr"], len(group["params"])) for group in optimizer.param_groups]
    [(0.001, 1), (0.006, 1)]

    ```
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        hidden: set[nn.Parameter],
        learning_rate: float,
        momentum: float = 0.95,
    ):
        muon_groups = []
        for group in optimizer.param_groups:
            taken = [weight for weight in group["params"] if weight in hidden]
            group["params"] = [weight for weight in group["params"] if weight not in hidden]
            if any(weight.ndim != 2 for weight in taken):
                raise ValueError("Muon trains matrices alone, got a weight of another shape.")
            if taken:
                factor = group["lr"] / optimizer.defaults["lr"]
                muon_groups.append(
                    {
                        "params": taken,
                        "lr": learning_rate * factor,
                        "weight_decay": group.get("weight_decay", 0.0),
                        "momentum": momentum,
                    }
                )
        if not muon_groups:
            raise ValueError("Muon has nothing to train: none of the trained weights is a matrix inside a layer.")
        rest_groups = [group for group in optimizer.param_groups if group["params"]]
        self.rest, self.num_rest = optimizer, len(rest_groups)
        super().__init__([*rest_groups, *muon_groups], {})
        self._share()

    def _share(self) -> None:
        """The other optimizer works on this one's groups and state, which schedulers and checkpoints know."""
        self.rest.param_groups, self.rest.state = self.param_groups[: self.num_rest], self.state

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.rest.step()
        for group in self.param_groups[self.num_rest :]:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                average = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonalize(weight.grad.lerp(average, group["momentum"]))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-group["lr"] * 0.2 * math.sqrt(max(weight.shape)))
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As every optimizer's."""
        super().load_state_dict(state_dict)
        self._share()
