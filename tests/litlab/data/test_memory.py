import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from litlab.data.memory import EpochSampler, InMemoryLoader


def test_order_is_a_function_of_seed_and_epoch():
    sampler = EpochSampler(1000, seed=3)
    first = sampler.order()
    assert sorted(first.tolist()) == list(range(1000))
    assert torch.equal(sampler.order(), first)
    sampler.set_epoch(1)
    second = sampler.order()
    assert not torch.equal(second, first)
    again = EpochSampler(1000, seed=3)
    again.set_epoch(1)
    assert torch.equal(again.order(), second)


def test_order_does_not_touch_or_follow_the_global_generators():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    order = EpochSampler(10, seed=1).order()
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(EpochSampler(10, seed=1).order(), order)


def test_neighbouring_seeds_and_epochs_share_no_order():
    orders = set()
    for seed in range(20):
        sampler = EpochSampler(50, seed)
        for epoch in range(20):
            sampler.set_epoch(epoch)
            orders.add(tuple(sampler))
    assert len(orders) == 400


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
