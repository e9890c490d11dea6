"""A CUDA graph's stand-in for the CPU."""

from contextlib import contextmanager, nullcontext
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from litlab.engine.graphs.cuda import calling_line

WAITS = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.nonzero.default,
}
"""Operations that hand something to Python."""


UNDECLARED = {torch.ops.aten.native_batch_norm.default: (3, 4)}
"""Operations that write to these arguments, though their schemas do not say so."""


class Waits(TorchDispatchMode):
    """Notes the lines that would wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation in WAITS:
            self.lines.append(calling_line())
        return operation(*args, **(kwargs or {}))


class Tape(TorchDispatchMode):
    """Keeps every operation with the memory it used, and does them again in the same memory.

    As with a CUDA graph, Python code is not run again, a tensor that is put in the place of another is not seen, and
    what is recorded leaves no trace before the first replay. An operation that hands a number to Python cannot be
    recorded. The device's generator moves on in a replay, and no other does. After its release it replays no more.
    """

    made: ClassVar[list] = []
    generator = torch.default_generator

    def __init__(self):
        super().__init__()
        self.operations, self.undo = [], []
        self.warm_ups = self.replays = 0
        self.is_captured = self.is_released = False
        Tape.made.append(self)

    @staticmethod
    def obstacle(device):
        return None

    def beside(self):
        self.warm_ups += 1
        return nullcontext()

    @contextmanager
    def noting_waits(self):
        with Waits() as waits:
            yield waits.lines

    @contextmanager
    def capturing(self):
        assert not self.is_captured
        state = torch.get_rng_state()
        try:
            with self:
                yield
            self.is_captured = True
        finally:
            torch.set_rng_state(state)
            with torch.no_grad():
                for tensor, before in reversed(self.undo):
                    tensor.copy_(before)
            self.undo = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation in WAITS:
            raise RuntimeError("operation not permitted when stream is capturing")
        kwargs = kwargs or {}
        for place, (argument, given) in enumerate(zip(operation._schema.arguments, args, strict=False)):
            is_declared = argument.alias_info is not None and argument.alias_info.is_write
            if is_declared or place in UNDECLARED.get(operation, ()):
                self.undo += [(tensor.detach(), tensor.clone()) for tensor in tree_leaves(given)]
        result = operation(*args, **kwargs)
        # An alias stays where the tensor is now, as an address does.
        self.operations.append((operation, *tree_map_only(Tensor, Tensor.detach, (args, kwargs, result))))
        return result

    @torch.no_grad()
    def replay(self):
        assert self.is_captured
        assert not self.is_released
        self.replays += 1
        for operation, args, kwargs, result in self.operations:
            again = self.repeat(operation, args, kwargs, result)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)

    def repeat(self, operation, args, kwargs, result):
        return operation(*args, **kwargs)

    def release(self):
        self.operations, self.is_released = [], True
