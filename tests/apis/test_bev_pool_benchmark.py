"""The benchmark of pooling runs at a small size, and all its ways give the same sums and gradients."""
import argparse

import pytest
import torch

from perception.apis.benchmarks import bev_pool
from perception.apis.listing import add_options, benchmarks
from perception.ops.bev_pool import make_ranks
from perception.utils.errors import ConfigError


def arguments(*words):
    return add_options(argparse.ArgumentParser(), bev_pool.OPTIONS).parse_args([str(word) for word in words])


def test_rows_of_the_small_size(monkeypatch):
    monkeypatch.setattr('perception.common.measure.gc.collect', lambda: 0)  # half a second before each run
    monkeypatch.setitem(bev_pool.SIZES, 'tiny', (2, 1., 2., 8, (4, 11), 4, 12.8, 1.6))
    threads = torch.get_num_threads()
    row, = bev_pool.run(arguments('--sizes', 'tiny', '--rounds', 1))
    assert 'bev_pool' in benchmarks() and torch.get_num_threads() == threads
    assert row['size'] == 'tiny' and 2_000 < row['points'] < 2 * 6 * 8 * 44
    assert set(row['forward']) == set(row['both']) == set(row['errors']) and len(row['forward']) == 7
    assert row['errors'][bev_pool.OURS] < 1e-5 and max(row['errors'].values()) < 1e-3
    assert set(bev_pool.GOALS) < set(row['ratios']) and min(row['ratios'].values()) > 0
    assert 'tiny: ' in bev_pool.to_lines(row) and 'goal' not in bev_pool.to_lines(row)
    assert 'goal 0.02' in bev_pool.to_lines(dict(row, size='bevdet'))


def test_all_ways_give_the_same_gradients():
    points, depth, features, grid = bev_pool.problem(2, 1., 2., 8, (3, 5), 4, 12.8, 1.6)
    ranks = make_ranks(points, **grid)
    grad = torch.randn(2, 4, 16, 16)
    results = {}
    for way, call in bev_pool.ways(points, ranks, grid).items():
        leaves = [values.clone().requires_grad_() for values in (depth, features)]
        results[way] = torch.autograd.grad(call(*leaves), leaves, grad)
    for way, found in results.items():
        for got, expected in zip(found, results[bev_pool.OURS]):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5, msg=way)


@pytest.mark.parametrize('words', [('--rounds', 0), ('--threads', 0)])
def test_bad_arguments(words):
    with pytest.raises(ConfigError, match=f'{words[0].removeprefix("--")}=.* above 0'):
        bev_pool.run(arguments(*words))
