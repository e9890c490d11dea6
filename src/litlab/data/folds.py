"""Folds for cross-validation."""

import numpy as np
import torch
from torch import Tensor


def fold_numbers(labels: Tensor, folds: int, seed: int) -> Tensor:
    """Assign each example to a fold, from 0, stratified by class: int64 (N,).

    Sizes of folds differ by one at most, and so do the numbers of examples of any class.

    Args:
        labels: the examples' classes: int64 (N,); all zeros for folds that are not stratified.
        folds: how many there are.
        seed: seed of the assignment.
    """
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels)))
    by_class = order[labels[order].argsort(stable=True)]
    numbers = torch.empty(len(labels), dtype=torch.int64)
    numbers[by_class] = torch.arange(len(labels)) % folds
    return numbers
