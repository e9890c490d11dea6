from itertools import chain

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from litlab.data.memory import InMemoryLoader
from litlab.data.order import EpochSampler
from litlab.data.workers import WorkersLoader
from litlab.errors import UserError


def test_batches_follow_the_sampler():
    examples, labels = torch.arange(10) * 10, torch.arange(10)
    sampler = EpochSampler(10, seed=0)
    loader = InMemoryLoader(examples, labels, batch_size=4, sampler=sampler)
    batches = list(loader)
    assert len(batches) == len(loader) == 3
    assert [len(batch[0]) for batch in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([batch[1] for batch in batches]), sampler.order())
    assert all(torch.equal(batch[0], batch[1] * 10) for batch in batches)


@pytest.mark.parametrize("epoch", [0, 3])
def test_a_dataloader_with_the_same_sampler_gives_the_same_batches(epoch):
    examples, labels = torch.rand(23, 2), torch.arange(23)
    sampler = EpochSampler(23, seed=5)
    sampler.set_epoch(epoch)
    in_memory = list(InMemoryLoader(examples, labels, batch_size=4, sampler=sampler))
    by_workers = list(DataLoader(TensorDataset(examples, labels), batch_size=4, sampler=sampler))
    assert len(in_memory) == len(by_workers) == 6
    for ours, theirs in zip(in_memory, by_workers, strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize("size", [0, 1, 7, 8])
def test_without_a_sampler_batches_are_in_order(size):
    loader = InMemoryLoader(torch.arange(size), batch_size=4)
    assert [number for (batch,) in loader for number in batch.tolist()] == list(range(size))
    assert len(list(loader)) == len(loader)


def test_takes_only_the_chosen_examples():
    loader = InMemoryLoader(torch.arange(10) * 10, batch_size=2, indices=torch.tensor([7, 1, 4]))
    assert [batch.tolist() for (batch,) in loader] == [[70, 10], [40]]
    assert len(loader) == 2


def test_parts_of_different_lengths_are_refused():
    with pytest.raises(UserError, match="the parts of the examples are of different lengths: 10, 9, 10"):
        InMemoryLoader(torch.arange(10), torch.arange(9), torch.arange(10), batch_size=4)


def in_memory(sampler):
    return InMemoryLoader(torch.arange(23), batch_size=4, sampler=sampler)


def by_workers(sampler):
    return WorkersLoader(range(23), 4, num_workers=0, sampler=sampler)


def numbers(batches):
    return [(batch[0] if isinstance(batch, (tuple, list)) else batch).tolist() for batch in batches]


@pytest.mark.parametrize("make", [in_memory, by_workers])
@pytest.mark.parametrize("done", [0, 1, 5, 6])
def test_goes_on_in_the_middle_of_an_epoch(make, done):
    def loader(epoch):
        made = make(EpochSampler(23, seed=5))
        made.sampler.set_epoch(epoch)
        return made

    whole, next_epoch = numbers(loader(2)), numbers(loader(3))
    stopped = loader(2)
    handed_out = [batch for _, batch in zip(range(done), stopped, strict=False)]
    state = stopped.state_dict()
    assert state == {"epoch": 2, "batches": done}
    resumed = loader(0)
    resumed.load_state_dict(state)
    resumed.sampler.set_epoch(2)
    assert numbers(handed_out) + numbers(resumed) == whole
    assert resumed.state_dict() == {"epoch": 2, "batches": 6}
    assert len(resumed) == 6
    assert numbers(resumed) == whole  # from the beginning
    resumed.sampler.set_epoch(3)
    assert numbers(resumed) == next_epoch


@pytest.mark.parametrize("make", [in_memory, by_workers])
@pytest.mark.parametrize("processes", [2, 3, 4])
def test_another_number_of_processes_goes_on_with_the_same_batches(make, processes):
    whole = numbers(make(EpochSampler(23, seed=5)))
    stopped = make(EpochSampler(23, seed=5))
    next(rounds := iter(stopped))
    next(rounds)
    together = []
    for process in range(processes):
        loader = make(EpochSampler(23, seed=5, processes=processes, process=process))
        loader.load_state_dict(stopped.state_dict())
        together.append([numbers([batch])[0][: loader.counts[0]] for batch in loader])
        assert len(loader) == 6
    batches = [sorted(chain(*shares)) for shares in zip(*together, strict=True)]
    assert batches == [sorted(batch) for batch in whole[2:]]


def test_a_position_of_another_epoch_is_none():
    loader = in_memory(EpochSampler(23, seed=5))
    loader.load_state_dict({"epoch": 0, "batches": 6})
    loader.sampler.set_epoch(1)
    assert len(list(loader)) == 6
