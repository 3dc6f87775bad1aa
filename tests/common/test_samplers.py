import pytest

from perception.common.samplers import EpochSampler


def ranks(size, world_size, epoch=0, **kwargs):
    parts = []
    for rank in range(world_size):
        sampler = EpochSampler(range(size), seed=5, **kwargs)
        sampler.rank, sampler.world_size = rank, world_size
        sampler.set_epoch(epoch)
        assert len(list(sampler)) == len(sampler)
        parts.append(list(sampler))
    return parts


def test_every_sample_comes_once_with_its_epoch():
    order = ranks(17, 1, epoch=3)[0]
    assert {epoch for epoch, _ in order} == {3}
    assert sorted(index for _, index in order) == list(range(17))
    assert all(type(index) is int for _, index in order)


def test_the_order_depends_on_the_seed_and_the_epoch_alone():
    assert ranks(17, 1, epoch=2) == ranks(17, 1, epoch=2)
    first, second = ([i for _, i in ranks(17, 1, epoch)[0]] for epoch in (0, 1))
    assert first != second
    other = EpochSampler(range(17), seed=6)
    assert [i for _, i in other] != first
    assert [i for _, i in ranks(17, 1, shuffle=False)[0]] == list(range(17))


@pytest.mark.parametrize('size, world_size', [(16, 2), (17, 2), (17, 4), (2, 5)])
def test_ranks_share_the_order_of_one_process(size, world_size):
    whole = ranks(size, 1)[0]
    parts = ranks(size, world_size)
    assert len({len(part) for part in parts}) == 1
    together = [part[i] for i in range(len(parts[0])) for part in parts]
    assert together == (whole * world_size)[:len(together)]


def test_without_a_seed_one_is_drawn():
    assert isinstance(EpochSampler(range(3)).seed, int)
