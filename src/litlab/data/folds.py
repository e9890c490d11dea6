"""Folds for cross-validation."""

import numpy as np
import torch
from torch import Tensor


def fold_numbers(labels: Tensor, folds: int, seed: int) -> Tensor:
    """The fold that each example is in: int64 (N,), from 0.

    Folds differ in size by one at most, and so do the numbers of any class in them.

    Args:
        labels: the examples' classes: int64 (N,); all zeros for folds that regard no classes.
        folds: how many there are.
        seed: of the choice.
    """
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels)))
    by_class = order[labels[order].argsort(stable=True)]
    numbers = torch.empty(len(labels), dtype=torch.int64)
    numbers[by_class] = torch.arange(len(labels)) % folds
    return numbers
