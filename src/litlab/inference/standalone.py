"""A run's model as a function of tensors, with everything that happens to a batch before and after it."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from litlab.callbacks.predictions import features_of
from litlab.errors import UserError


class Standalone(nn.Module):
    """From the inputs in a batch, as a dataloader hands them out, to what the model answers.

    A classifier answers by probabilities (N, classes) and, of a network that has `features`, by those (N, …); any other
    model by the outputs of its `forward`.

    Args:
        data: its `on_after_batch_transfer`, or else the module's, comes before the model.
        module: the model.
        batches: example batches, which show the dynamic dimensions; the hook gets zeros for what is no input in them.

    Attributes:
        is_classifier: whether `forward` returns logits of classes, False until it is set.
        names: the arguments of `forward`.
        file_names: what a file calls them.
        example: inputs of two examples.

    Raises:
        UserError: the module has no `forward` that takes inputs.
    """

    def __init__(self, data: LightningDataModule, module: nn.Module, batches: Sequence[Any]) -> None:
        super().__init__()
        self.data, self.module, self.batches, self.is_classifier = data, module, batches, False
        self.names = _arguments(module)
        self.file_names = ["pixels"] if hasattr(data, "read_picture") and len(self.names) == 1 else self.names
        self.example = tuple(_two(value) for value in self.inputs(batches[0]))
        hooked = [part for part in (data, module) if is_overridden("on_after_batch_transfer", part)]
        self.hook: Any = hooked[0].on_after_batch_transfer if hooked else None
        self.features = features_of(module) if len(self.names) == 1 else None

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs for a batch, each with the examples in its first dimension."""
        return tuple(self.outputs(*inputs).values())

    def outputs(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Return the outputs for a batch by name."""
        seen = self._after_transfer(inputs)
        answer = outputs_of(self.module(*seen))
        if not self.is_classifier:
            return answer
        probabilities = {"probabilities": next(iter(answer.values())).softmax(1)}
        return probabilities if self.features is None else probabilities | {"features": self.features(*seen).flatten(1)}

    def inputs(self, batch: Any) -> list[Tensor]:
        """Return what `forward` takes of a batch: of a sequence the first parts, of a mapping those of its names.

        Raises:
            UserError: the batch does not have them.
        """
        if isinstance(batch, Mapping):
            found = [batch[name] for name in self.names if name in batch]
        else:
            found = [batch] if isinstance(batch, Tensor) else list(batch)[: len(self.names)]
        if len(found) != len(self.names) or not all(isinstance(value, Tensor) for value in found):
            keys = f" with {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else ""
            told = f"forward takes {', '.join(self.names)}, of which a {type(batch).__name__}{keys} has no tensors"
            raise UserError(f"{told}; name its arguments as the batch does, or put them first")
        return found

    @torch.no_grad()
    def output_names(self) -> list[str]:
        """Return the names of the outputs."""
        return list(self.outputs(*self.example))

    def dynamic_shapes(self) -> tuple[dict[int, Any], ...]:
        """Return the dimensions of each input that vary: the first, and those that differ between the batches."""
        return tuple(
            {0: torch.export.Dim("batch")}
            | {at: torch.export.Dim.AUTO for at in range(1, one[0].ndim) if len({value.shape[at] for value in one}) > 1}
            for one in zip(*map(self.inputs, self.batches), strict=True)
        )

    def _after_transfer(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the inputs as the hook leaves them."""
        if self.hook is None:
            return inputs
        own = {id(value): given for value, given in zip(self.inputs(self.batches[0]), inputs, strict=True)}
        parts, structure = tree_flatten(self.batches[0])
        size = inputs[0].shape[0]  # len() would be a constant in an export
        parts = [own[id(part)] if id(part) in own else _zeros(part, inputs[0], size) for part in parts]
        return self.inputs(self.hook(tree_unflatten(parts, structure), 0))


def _two(value: Tensor) -> Tensor:
    """Return two examples; of one alone, torch.export would take the batch for a constant."""
    two = value[:2] if len(value) > 1 else torch.cat([value, value])
    return two.contiguous()  # the strides of a slice would be constants, too


def _zeros(part: Any, like: Tensor, size: int) -> Any:
    return like.new_zeros((size, *part.shape[1:]), dtype=part.dtype) if isinstance(part, Tensor) and part.ndim else part


def _arguments(module: nn.Module) -> list[str]:
    """Return the names of the arguments that `forward` needs.

    Raises:
        UserError: there are none.
    """
    if isinstance(module, LightningModule) and not is_overridden("forward", module):
        raise UserError(f"{type(module).__name__} has no forward, which is what is exported")
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters.values()
    names = [one.name for one in parameters if one.kind in kinds and one.default is one.empty]
    if not names:
        raise UserError(f"forward of {type(module).__name__} takes no inputs by name")
    return names


def outputs_of(answer: Any) -> dict[str, Tensor]:
    """Return what a `forward` has given by names: the keys of a mapping, `output`, or `output_0` and so on.

    Raises:
        UserError: it is not made of tensors.
    """
    if isinstance(answer, Tensor):
        return {"output": answer}
    if isinstance(answer, Mapping):
        named = {str(key): value for key, value in answer.items()}
    else:
        named = {f"output_{index}": value for index, value in enumerate(answer if isinstance(answer, Sequence) else ())}
    if not named or not all(isinstance(value, Tensor) for value in named.values()):
        raise UserError(f"forward gives no tensors: a {type(answer).__name__}")
    return named
