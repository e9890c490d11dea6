import pytest
import torch

from litlab.data.order import EpochSampler


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


@pytest.mark.parametrize("size", [12, 13])
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_an_epoch(size, processes):
    whole = EpochSampler(size, seed=1).order()
    parts = [EpochSampler(size, seed=1, processes=processes, process=process) for process in range(processes)]
    shares = [part.order() for part in parts]
    assert len({len(share) for share in shares}) == 1  # nobody waits for the others at the end
    assert [len(part) for part in parts] == [len(share) for share in shares]
    together = torch.stack(shares, dim=1).flatten()  # the batches of all make one of the whole
    assert torch.equal(together[:size], whole)
    assert torch.equal(together[size:], whole[: len(together) - size])


def test_without_shuffle_every_epoch_has_the_examples_order():
    sampler = EpochSampler(5, seed=1, shuffle=False)
    sampler.set_epoch(3)
    assert list(sampler) == [0, 1, 2, 3, 4]
