"""The calls of losses and layers in the first step, looked at before they are made."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from litlab.engine.misfits import (
    BINARY_LOSSES,
    Fit,
    are_probabilities,
    class_problem,
    class_shape,
    described,
    layer_problem,
    stated,
    target_problem,
)
from litlab.errors import UserError
from litlab.messages import first_lines

CLASS_LOSSES = (functional.cross_entropy, functional.nll_loss)
"""Losses that take scores (N, classes, …) and class numbers (N, …)."""

DISTANCES = (functional.mse_loss, functional.l1_loss, functional.smooth_l1_loss, functional.huber_loss)
"""Losses that take targets of the predictions' shape, or of one that PyTorch stretches to it."""

EQUALITIES = (torch.eq, Tensor.eq, Tensor.__eq__)
"""By which a module counts its hits."""


class FirstCalls(TorchFunctionMode):
    """Looks at each call of a loss or a layer before, or when it fails; what is computed stays the same.

    Attributes:
        doubt: what is unusual of the labels, though their loss takes them; the cause, if the step fails.
    """

    def __init__(self, fit: Fit) -> None:
        super().__init__()
        self.fit = fit
        self.doubt: str | None = None
        self._doubtful: Tensor | None = None
        self._weights = {id(weight): name for name, weight in fit.module.named_parameters()}
        self._has_entered = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function; refuse first what it would take wrongly or not at all.

        Raises:
            UserError: the labels or the inputs do not fit, and which setting does.
        """
        kwargs = kwargs or {}
        if func in (*CLASS_LOSSES, *BINARY_LOSSES, *DISTANCES):
            self._check_loss(func, args, kwargs)
        elif func is functional.batch_norm:
            self._check_batch_norm(args, kwargs)
        elif func in EQUALITIES and self.doubt:
            self._check_equality(args)
        try:
            return self._entering(func, args, kwargs)
        except (RuntimeError, ValueError, IndexError) as error:
            self._explain(args, kwargs, error)
            raise

    def _entering(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        answer = func(*args, **kwargs)
        self._has_entered = self._has_entered or self._weight(args, kwargs) is not None
        return answer

    def _check_loss(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        named = {"input": 0, "target": 1}
        answers, targets = (args[place] if place < len(args) else kwargs.get(name) for name, place in named.items())
        if not (isinstance(answers, Tensor) and isinstance(targets, Tensor)):
            return
        if func in CLASS_LOSSES:
            problem = class_problem(self.fit, answers, targets, kwargs.get("ignore_index", -100))
            if func is functional.cross_entropy and are_probabilities(answers, targets):
                expected = f"class numbers are int64 {class_shape(answers)}, such as labels.argmax(1)"
                self.doubt = f"{self.fit.source}{stated('labels', targets)}, one probability a class; {expected}"
                self._doubtful = targets
        else:
            problem = target_problem(func, answers, targets)
        if problem:
            raise UserError(problem if problem.startswith("the data has") else f"{self.fit.source}{problem}")

    def _check_equality(self, args: tuple[Any, ...]) -> None:
        """Refuse to compare class numbers with each probability of such labels, whose loss was right."""
        tensors = [part for part in args if isinstance(part, Tensor)]
        if self.doubt and any(part is self._doubtful for part in tensors) and len({part.ndim for part in tensors}) > 1:
            raise UserError(self.doubt)

    def _check_batch_norm(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given, training = args[0], kwargs.get("training", args[5] if len(args) > 5 else False)
        if not training or given.numel() != given.shape[0] * given.shape[1]:
            return
        for size, which in ((len(given), "a"), (self.fit.last_batch, "the last")):
            if size == 1:
                keys = {"drop_last": "data.drop_last=true", "batch_size": "another data.batch_size"}
                hint = " or ".join(text for key, text in keys.items() if key in self.fit.data)
                told = f"{which} training batch has 1 example, and batch normalization takes 2 or more"
                raise UserError(f"{told}; set {hint}" if hint else f"{told}; leave it out, or take larger batches")

    def _weight(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        """The name of the first of the module's weights among the arguments."""
        leaves = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, nn.Parameter))
        return next((self._weights[id(leaf)] for leaf in leaves if id(leaf) in self._weights), None)

    def _explain(self, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception) -> None:
        """Refuse what a layer has failed at, if a setting or the data is the cause.

        Raises:
            UserError: it is; otherwise the error gets a note.
        """
        weight = self._weight(args, kwargs)
        given = next((leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)), None)
        if weight is None or given is None:
            return
        place = weight.rpartition(".")[0]
        layer = self.fit.module.get_submodule(place)
        name = f"{place or 'the module'} ({type(layer).__name__})"
        problem = layer_problem(self.fit, layer, name, given)
        if problem is None:
            problem = f"{self.fit.source}{name} cannot take {described(given)}: {first_lines(error)}"
            if self._has_entered:
                error.add_note(problem)
                return
        raise UserError(problem) from error
