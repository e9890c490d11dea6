import pytest
import torch

from litlab.data.order import EpochSampler
from litlab.errors import UserError


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


def shared(size, batch_size, processes, **options):
    """The samplers of all processes, and a single one's."""
    made = [EpochSampler(size, 1, processes=processes, process=process, **options) for process in range(processes)]
    whole = EpochSampler(size, 1, **options)
    for sampler in (*made, whole):
        sampler.share_batches(batch_size)
    return made, whole


@pytest.mark.parametrize("skip", [0, 2])
@pytest.mark.parametrize("size", [24, 23, 22, 17])  # the last batch has 8, 7, 6, 1
@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_processes_share_each_batch(size, processes, skip):
    samplers, whole = shared(size, 8, processes)
    for sampler in (*samplers, whole):
        sampler.skip = skip
    shares = [list(sampler.shares(sampler.order())) for sampler in samplers]
    batches = list(whole.shares(whole.order()))
    assert {len(own) for own in shares} == {len(batches)}  # they do each step together
    for number, batch in enumerate(batches, start=skip):
        counts = [sampler.counts(number) for sampler in samplers]
        counted = [own[number - skip][:count] for own, (count, _) in zip(shares, counts, strict=True)]
        assert sorted(torch.cat(counted).tolist()) == sorted(batch.tolist())
        assert {all_together for _, all_together in counts} == {len(batch)}
        assert max(map(len, counted)) - min(map(len, counted)) <= 1
    filling = [own[-1] for own, (count, _) in zip(shares, counts, strict=True) if count == 0]
    assert all(share.tolist() == batches[-1][:1].tolist() for share in filling)
    assert len(filling) == max(0, processes - len(batches[-1]))


def test_in_a_validation_nothing_is_there_twice():
    samplers, whole = shared(17, 8, 2, shuffle=False, filled=False)
    assert [len(list(sampler)) for sampler in samplers] == [len(sampler) for sampler in samplers] == [9, 8]
    assert sorted(index for sampler in samplers for index in sampler) == list(range(17))
    assert {sampler.batches for sampler in (*samplers, whole)} == {3}


@pytest.mark.parametrize(("size", "batch_size"), [(100, 2), (2, 100)])
def test_a_batch_without_an_example_for_each_is_refused(size, batch_size):
    with pytest.raises(UserError, match="a batch of 2 cannot be shared by 3 processes: take larger batches"):
        shared(size, batch_size, 3)


def test_without_shuffle_every_epoch_has_the_examples_order():
    sampler = EpochSampler(5, seed=1, shuffle=False)
    sampler.set_epoch(3)
    assert list(sampler) == [0, 1, 2, 3, 4]
