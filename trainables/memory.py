"""How much memory training takes.

On a GPU, the most that was allocated. On a CPU the allocator cannot say it, and the process's own
peak includes libraries and earlier trials; so the tensors are counted: weights, gradients,
optimiser state, and all that the forward pass of one step keeps for backward, each storage once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class PeakMemory:
    """Watches one epoch."""

    def __init__(self, device: torch.device):
        self.device = device
        self.saved: dict[int, int] = {}
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    @contextmanager
    def watched(self, step: int) -> Iterator[None]:
        """Count what one step saves; the first of an epoch stands for all."""
        if step or self.device.type == "cuda":
            yield
            return
        with torch.autograd.graph.saved_tensors_hooks(self._save, lambda tensor: tensor):
            yield

    def _save(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self.saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    def peak_bytes(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Give the peak of the epoch so far."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        weights = list(model.parameters())
        known = {w.untyped_storage().data_ptr(): w.untyped_storage().nbytes() for w in weights}
        gradients = sum(w.nbytes for w in weights if w.grad is not None)
        states = (value for state in optimizer.state.values() for value in state.values())
        state_bytes = sum(value.nbytes for value in states if isinstance(value, Tensor))
        return sum((self.saved | known).values()) + gradients + state_bytes
