"""The arithmetic of the search on made-up costs, and its numbers for the published nets."""
import numpy as np
import pytest

from perception.prune.importance import channels_to_keep
from perception.prune.peel import backbone_widths, make_grid, reallocate, slimmed, spend_rest
from perception.utils.errors import ConfigError


def chain(full, sizes):
    """Cost of a chain of layers: maps times neighbouring widths."""
    full, sizes = np.asarray(full), np.asarray(sizes)

    def cost(widths):
        widths = np.concatenate([[3], np.asarray(widths)])
        return int((sizes * widths[:-1] * widths[1:]).sum())
    return cost


@pytest.fixture
def net():
    rng = np.random.default_rng(0)
    full = rng.integers(3, 40, 12) * 8
    return full, chain(full, rng.integers(10, 900, 12)), rng.uniform(0.1, 2, 12)


@pytest.mark.parametrize('rule', ['uniform', 'linear'])
@pytest.mark.parametrize('share', [0.2, 0.5, 0.9, 1.0])
def test_the_budget_is_kept_and_no_step_fits_any_more(net, rule, share):
    full, cost, importance = net
    grid, target = make_grid(full, 8), share * cost(full)
    start, ratio = backbone_widths(cost, grid, 0.8 * target, rule)
    widths = reallocate(cost, grid, start, importance, target)
    assert cost(start) <= 0.8 * target and cost(widths) <= target
    assert all((w % 8 == 0 or w == c) and low <= w <= c for w, c, low in zip(widths, full, grid.least))
    assert (widths >= start).all()
    for i in np.flatnonzero(widths < full):
        wider = widths.copy()
        wider[i] = min(wider[i] + 8, full[i])
        assert cost(wider) > target


def test_the_larger_the_importance_the_wider(net):
    full, cost, importance = net
    grid, target = make_grid(full, 8), 0.5 * cost(full)
    start, _ = backbone_widths(cost, grid, 0.8 * target)
    before = reallocate(cost, grid, start, importance, target)
    for i in range(len(full)):
        more = importance.copy()
        more[i] *= 3
        assert reallocate(cost, grid, start, more, target)[i] >= before[i]


def test_equal_groups_of_equal_importance_stay_equal_up_to_a_step():
    full = np.full(8, 256)

    def cost(widths):
        return int((100 * np.asarray(widths)).sum())
    grid = make_grid(full, 8)
    start, _ = backbone_widths(cost, grid, 0.8 * 0.5 * cost(full))
    widths = reallocate(cost, grid, start, np.ones(8), 0.5 * cost(full))
    assert widths.max() - widths.min() <= 8
    assert abs(widths.mean() - 128) <= 8


def test_all_of_the_budget_to_the_backbone_is_the_uniform_net():
    full = np.array([64, 128, 128, 256, 256, 512])
    cost = chain(full, [900, 200, 200, 50, 50, 12])
    grid, target = make_grid(full, 8), 0.5 * cost(full)
    start, ratio = backbone_widths(cost, grid, target)
    grown = reallocate(cost, grid, start, np.ones(6), target)
    assert np.abs(start - ratio * full).max() <= 8
    assert 0.95 * target < cost(start) <= cost(grown) <= target  # the rounding rest alone


def test_a_small_backbone_leaves_the_widths_to_the_importance():
    full = np.full(6, 512)

    def cost(widths):
        return int((50 * np.asarray(widths)).sum())
    grid, importance = make_grid(full, 8, 0.0), np.array([1, 2, 3, 4, 5, 6.0])
    start, _ = backbone_widths(cost, grid, 0.05 * 0.4 * cost(full))
    widths = reallocate(cost, grid, start, importance, 0.4 * cost(full))
    assert (np.diff(widths) >= 0).all() and widths[-1] > 4 * widths[0]


def test_donors_give_a_step_and_a_larger_exponent_tells_groups_more_apart(net):
    full, cost, importance = net
    grid, target = make_grid(full, 8), 0.5 * cost(full)
    start, _ = backbone_widths(cost, grid, 0.8 * target)
    poor = int(importance.argmin())
    plain = reallocate(cost, grid, start, importance, target)
    given = reallocate(cost, grid, start, importance, target, donors=0.3)
    assert given[poor] <= plain[poor] and cost(given) <= target
    assert reallocate(cost, grid, start, importance, target, alpha=4)[int(importance.argmax())] >= plain[
        int(importance.argmax())]


def test_donors_stay_on_the_grid():
    full, start = np.array([20, 64]), np.array([20, 32])
    cost = chain(full, [1, 10])
    given = reallocate(cost, make_grid(full, 8), start, [0.1, 1.0], cost(start), donors=1)
    assert given.tolist() == [16, 40]  # the first one does not give 8, which would leave it 12


def test_frozen_groups_stay(net):
    full, cost, importance = net
    grid, target = make_grid(full, 8), 0.5 * cost(full)
    start, _ = backbone_widths(cost, grid, 0.8 * target)
    widths = reallocate(cost, grid, start, importance, target, frozen=[2, 5])
    assert (widths[[2, 5]] == start[[2, 5]]).all()


def test_a_divisor_for_narrow_groups_and_the_least_width():
    grid = make_grid([3, 16, 24, 64, 512], None, 0.1)
    assert grid.step.tolist() == [4, 4, 4, 8, 8]
    assert grid.least.tolist() == [3, 4, 4, 8, 48]
    assert grid.round(np.array([2.9, 15.9, 24, 30, 500])).tolist() == [3, 12, 24, 24, 496]


def test_one_threshold_on_all_channels_keeps_the_budget():
    rng = np.random.default_rng(1)
    full = np.full(5, 64)
    cost = chain(full, [9, 5, 7, 3, 8])
    scores = [rng.uniform(0, i + 1, 64) for i in range(5)]
    widths = slimmed(cost, make_grid(full, 8), scores, 0.5 * cost(full))
    assert cost(widths) <= 0.5 * cost(full)
    assert widths[-1] > widths[0]  # its scales are larger


def test_the_rest_goes_where_it_is_worth_most():
    grid = make_grid([64, 64], 8)

    def cost(widths):
        return int(10 * widths[0] + 100 * widths[1])
    assert spend_rest(cost, grid, np.array([8, 8]), np.array([0.5, 0.5]), 8 * 110 + 240).tolist() == [32, 8]


def test_the_earlier_of_equal_channels_stays():
    assert channels_to_keep(np.array([1.0, 3, 1, 3, 2]), 3) == [1, 3, 4]
    assert channels_to_keep(np.array([1.0, 1, 1]), 2) == [0, 1]


@pytest.mark.parametrize(('call', 'named'), [
    (lambda: make_grid([8], 0), 'divisor=0'),
    (lambda: make_grid([8], 8, 1.5), 'min_ratio=1.5'),
    (lambda: backbone_widths(lambda w: 1, make_grid([8]), 1, 'pyramid'), 'pyramid'),
    (lambda: backbone_widths(lambda w: 1, make_grid([8, 8]), 1, 'explicit', widths=[8]), '1 explicit widths for 2'),
    (lambda: reallocate(lambda w: 1, make_grid([8]), np.array([8]), np.array([np.nan]), 2), 'nan')])
def test_what_cannot_be_is_refused(call, named):
    with pytest.raises(ConfigError, match=named):
        call()
