"""Checks of the data: what a batch holds, which examples are in which split, and their order."""

import hashlib
import time
from contextlib import suppress
from itertools import combinations
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten
from torch.utils.data import DataLoader, IterableDataset

from litlab.checks.subject import Subject, batches, difference, examples_of, only_loader
from litlab.checks.verdict import NotCheckable, Verdict, check, failed, noted, passed, skipped
from litlab.config.compose import read_back
from litlab.engine.random_state import random_state

HASHING_S = 10
"""Seconds for hashing examples."""


@check("right", "config", "does the config read back as it was?")
def config_reads_back(subject: Subject) -> Verdict:
    """Write and read config.yaml, from which a run is resumed and evaluated."""
    if read_back(subject.told) != subject.told:
        return failed("config.yaml reads back differently", "give plain values")
    return passed("identical")


@check("right", "batch", "does a batch hold what it should?")
def batch_is_sound(subject: Subject) -> Verdict:
    """Look for NaN, infinite and constant inputs in the first batch."""
    training = subject.built()
    batch = batches(only_loader(training, "train_dataloader"), 1)[0]
    parts = [leaf for leaf in tree_flatten(batch)[0] if isinstance(leaf, Tensor)]
    if not parts:
        return skipped("a batch holds no tensors")
    if any(not part.isfinite().all() for part in parts if part.is_floating_point()):
        return failed("a batch holds NaN or infinite numbers", "look at what the data module reads")
    if len(parts[0]) > 1 and parts[0].numel() > 1 and (parts[0] == parts[0].flatten()[0]).all():
        return failed("all numbers of a batch's inputs are the same", "look at what the data module reads")
    shown = (f"{str(part.dtype).removeprefix('torch.')} {tuple(part.shape)} {_range(part)}" for part in parts[:4])
    return passed("; ".join(shown))


def _range(part: Tensor) -> str:
    return f"{float(part.min()):.4g} to {float(part.max()):.4g}" if part.numel() else "empty"


@check("right", "leak", "is an example in two splits?")
def splits_are_apart(subject: Subject) -> Verdict:
    """Compare hashes of the inputs between all splits."""
    training, seen, until = subject.built(), dict[str, dict[bytes, int]](), time.monotonic() + HASHING_S
    training.data.setup("test")
    for name in ("val_dataloader", "test_dataloader", "train_dataloader"):  # the smaller ones first
        try:
            loader = only_loader(training, name)
        except NotCheckable:
            continue
        hashes = seen.setdefault(name.partition("_")[0], {})
        for batch in loader:
            hashes |= {hashlib.blake2b(one, digest_size=16).digest(): 0 for one in examples_of(batch)}
            if time.monotonic() > until:
                break
    if len(seen) < 2:
        return skipped("there is but one split")
    common = {(one, other): len(seen[one].keys() & seen[other].keys()) for one, other in combinations(seen, 2)}
    if twice := [f"{count} of {one} are in {other}" for (one, other), count in common.items() if count]:
        advice = "leave out copies, and split by what the examples come from"
        return failed(f"{', '.join(twice)}, by their hash", advice)
    counts = ", ".join(f"{len(hashes):,} of {name}" for name, hashes in seen.items())
    return passed(f"none of {counts}")


@check("right", "order", "do the loaders give what they should, in the order that they should?")
def loaders_keep_order(subject: Subject) -> Verdict:
    """Compare two passes over each loader, and look which generators reading an example draws from."""
    training = subject.built()
    with suppress(NotCheckable):  # there need not be a validation
        loader = only_loader(training, "val_dataloader")
        if difference(batches(loader, 2), batches(loader, 2)):
            return failed("the validation's batches are others each time", "leave out shuffle=True of val_dataloader")
    loader = only_loader(training, "train_dataloader")
    if drawn := _drawn_in_examples(loader):
        advice = "augment batches in training_step, or seed a generator by the epoch and the example's index"
        return noted(f"reading an example draws from {drawn}: other numbers with another data.num_workers", advice)
    one, two = _two_epochs(loader)
    if subject.told.data.get("shuffle", True) and difference(one, two) is None:
        advice = "shuffle with a generator that goes on, or set data.shuffle=false if one order is meant"
        return noted("each epoch has the same examples in the same order", advice)
    return passed("a validation repeats its order, a training does not")


def _two_epochs(loader: Any) -> tuple[list[Any], list[Any]]:
    sampler: Any = getattr(loader, "sampler", None)
    found = []
    for epoch in range(2):
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        found.append(batches(loader, 2))
    return found[0], found[1]


def _drawn_in_examples(loader: Any) -> str | None:
    """Return the library whose generator reading an example draws from; None if it draws nothing."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    before = random_state()
    loader.dataset[0]
    after = random_state()
    generators = {"python": "random", "numpy": "np.random", "torch": "torch"}
    return next((library for name, library in generators.items() if difference(before[name], after[name])), None)
