"""Gathering a batch from every process, so that a contrastive loss sees all of it."""

import torch
import torch.distributed as dist
from torch import Tensor


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """
    Concatenates the rows of every process, in rank order, and lets the gradient flow back to each.

    When every process computes the same loss on the gathered rows, the average over the processes (which
    `DistributedDataParallel` takes) equals the gradient of one process that holds the whole batch. A gather that
    treats the other processes' rows as constants gives another gradient.

    Without `torch.distributed`, or in a single process, it returns its argument. Integer tensors (person ids) gather
    just as well; they have no gradient. Every process must call it, in the same order.

    Args:
        tensor (`Tensor` of shape `(batch, ...)`): This process's rows, equally many in every process.

    Returns:
        `Tensor`: the rows of all processes, of shape `(num_processes * batch, ...)`.

    Raises:
        ValueError: for a scalar, or if the processes hold different numbers of rows.

    Example:

    ```python
    >>> import torch
    >>> from scmm.distributed import gather_with_gradient

    >>> gather_with_gradient(torch.tensor([7, 9]))  # a single process
    tensor([7, 9])

    ```
    """
    if tensor.ndim == 0:
        raise ValueError("gather_with_gradient needs a tensor of rows, got a scalar.")
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return tensor
    _check_equal_rows(tensor)
    return _Gather.apply(tensor)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        ctx.num_rows = len(tensor)
        gathered = [
            torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())
        ]
        dist.all_gather(gathered, tensor.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> Tensor:
        # Every process's loss depends on these rows: their gradients add up.
        grad = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        start = dist.get_rank() * ctx.num_rows
        return grad[start : start + ctx.num_rows]


def _check_equal_rows(tensor: Tensor) -> None:
    # Collectives on unequal sizes hang or corrupt memory, depending on the backend; asking first costs microseconds.
    rows = [torch.empty(1, dtype=torch.long, device=tensor.device) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, torch.tensor([len(tensor)], device=tensor.device))
    num_rows = torch.cat(rows).tolist()
    if len(set(num_rows)) > 1:
        raise ValueError(
            f"Every process must hold equally many rows, got {num_rows}; drop or pad the last incomplete batch."
        )
