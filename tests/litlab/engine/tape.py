"""A CUDA graph's stand-in for the CPU."""

from contextlib import contextmanager, nullcontext
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    """Keeps every operation with the very tensors it used, and does them again in the same memory.

    As with a CUDA graph, Python code is not run again, and what is recorded leaves no trace before the first replay; an
    operation that hands a number to Python cannot be recorded.
    """

    made: ClassVar[list] = []

    def __init__(self):
        super().__init__()
        self.operations, self.undo = [], []
        self.warm_ups = self.replays = 0
        Tape.made.append(self)

    @staticmethod
    def obstacle(device):
        return None

    def beside(self):
        self.warm_ups += 1
        return nullcontext()

    @contextmanager
    def capturing(self):
        state = torch.get_rng_state()
        try:
            with self:
                yield
        finally:
            torch.set_rng_state(state)
            with torch.no_grad():
                for tensor, before in reversed(self.undo):
                    tensor.copy_(before)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            raise RuntimeError("operation not permitted when stream is capturing")
        kwargs = kwargs or {}
        for argument, given in zip(operation._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self.undo += [(tensor, tensor.clone()) for tensor in tree_leaves(given)]
        result = operation(*args, **kwargs)
        self.operations.append((operation, args, kwargs, result))
        return result

    @torch.no_grad()
    def replay(self):
        self.replays += 1
        for operation, args, kwargs, result in self.operations:
            again = operation(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)
