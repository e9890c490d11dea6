"""Going on in the middle of an epoch with a DataLoader that cannot say where it is: its beginning is repeated."""

import logging
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from lightning.fabric.utilities.types import _Stateful
from torch.utils.data import DataLoader

from litlab.distributed.group import all_gather, current_rank
from litlab.engine.random_state import random_state, set_random_state
from litlab.errors import UserError

log = logging.getLogger(__name__)


class Replaying(DataLoader[Any]):
    """A DataLoader whose rounds can be repeated up to a batch.

    What it draws at random, for the order, for its workers and for what its dataset does in this process, follows from
    the random state in which the round began. That is kept; after resuming, the batches up to the one that was trained
    on last are read once more from there, and left out.

    Attributes:
        epoch: gives the number of the present epoch.
    """

    epoch: Callable[[], int]
    _batches = 0
    _began_with: dict[str, Any] | None = None
    _restored: dict[str, Any] | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        state, self._restored = self._restored, None
        now = random_state()
        repeats = state is not None and state["epoch"] == self.epoch()
        self._began_with = self._own(state["random"], now) if state and repeats else now
        set_random_state(self._began_with)
        batches = super().__iter__()
        self._batches = 0
        if state and repeats:
            self._batches = sum(1 for _ in islice(batches, state["batches"]))
            set_random_state(now)
            if self.persistent_workers and state["epoch"] > 0:
                log.warning("the data's workers persist: what they draw at random is drawn anew after resuming")
        for batch in batches:
            self._batches += 1
            yield batch

    @staticmethod
    def _own(states: list[dict[str, Any]], otherwise: dict[str, Any]) -> dict[str, Any]:
        """Return this process's state; a process that there was not then draws on from its own."""
        rank = current_rank().rank
        return states[rank] if rank < len(states) else otherwise

    def state_dict(self) -> dict[str, Any]:
        """The epoch, the batches handed out, and the random states, of all processes, that their round began with."""
        return {
            "epoch": self.epoch(),
            "batches": self._batches,
            "random": all_gather(self._began_with or random_state()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make the next round of the same epoch begin after those batches.

        Raises:
            UserError: it is not the state of such a loader.
        """
        kinds = {"epoch": int, "batches": int, "random": list}
        if not all(isinstance(state.get(name), kind) for name, kind in kinds.items()):
            raise UserError("the checkpoint has no fitting state of the data's loader")
        self._restored = state


def make_replaying(loader: Any, epoch: Callable[[], int]) -> None:
    """Let a DataLoader without a state of its own, whatever its class, become one that is replayed."""
    if isinstance(loader, DataLoader) and not isinstance(loader, _Stateful):
        kind = type(loader)
        loader.__class__ = type(kind.__name__, (Replaying, kind), {"__module__": kind.__module__})
        loader.epoch = epoch
