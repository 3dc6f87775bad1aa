import pytest
import torch

from perception.ops.scatter import scatter_max, scatter_mean, take_rows
from perception.utils.errors import DataError

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]


def groups_of(index, num_groups):
    return [(index == g).nonzero()[:, 0] for g in range(num_groups)]


@pytest.mark.parametrize('device', DEVICES)
def test_max_and_mean_equal_a_loop_over_groups(device):
    torch.manual_seed(0)
    src = torch.randn(200, 5, dtype=torch.float64, device=device)
    index = torch.randint(0, 40, (200,), device=device)
    index[index == 7] = 8  # group 7 stays empty
    largest, mean = scatter_max(src, index, 41), scatter_mean(src, index, 41)
    for g, rows in enumerate(groups_of(index, 41)):
        empty = torch.zeros(5, dtype=torch.float64, device=device)
        torch.testing.assert_close(largest[g], src[rows].amax(0) if len(rows) else empty, rtol=0, atol=0)
        torch.testing.assert_close(mean[g], src[rows].mean(0) if len(rows) else empty)
    assert not (index == 7).any() and (largest[7] == 0).all()


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('function', [scatter_max, scatter_mean])
def test_gradients(device, function):
    torch.manual_seed(1)
    src = torch.randn(30, 3, dtype=torch.float64, device=device, requires_grad=True)
    index = torch.randint(0, 9, (30,), device=device)
    assert torch.autograd.gradcheck(lambda x: function(x, index, 10), src)


@pytest.mark.parametrize('device', DEVICES)
def test_gradient_of_the_maximum_goes_to_its_row_and_ties_share_it(device):
    src = torch.tensor([[1., 5.], [3., 5.], [2., 5.], [4., -1.]], device=device, requires_grad=True)
    index = torch.tensor([0, 0, 0, 2], device=device)
    scatter_max(src, index, 3).backward(torch.tensor([[6., 9.], [7., 7.], [8., 2.]], device=device))
    expected = torch.tensor([[0., 3.], [6., 3.], [0., 3.], [8., 2.]], device=device)
    torch.testing.assert_close(src.grad, expected)


def test_no_rows():
    src = torch.zeros(0, 4, requires_grad=True)
    index = torch.zeros(0, dtype=torch.long)
    for function in (scatter_max, scatter_mean):
        out = function(src, index, 3)
        assert out.shape == (3, 4) and (out == 0).all()
        out.sum().backward()
        assert src.grad.shape == (0, 4)


@pytest.mark.parametrize('function', [scatter_max, scatter_mean])
def test_shapes_that_do_not_fit_are_refused(function):
    with pytest.raises(DataError, match=r'\(3, 2\) with index of shape \(4,\)'):
        function(torch.zeros(3, 2), torch.zeros(4, dtype=torch.long), 2)
    with pytest.raises(DataError, match=r'expected \(N, C\)'):
        function(torch.zeros(3), torch.zeros(3, dtype=torch.long), 2)


@pytest.mark.parametrize('device', DEVICES)
def test_a_mean_of_many_half_precision_rows_does_not_overflow(device):
    src = torch.full((2000, 3), 100., dtype=torch.float16, device=device)  # their sum is above float16's largest number
    mean = scatter_mean(src, torch.zeros(2000, dtype=torch.long, device=device), 1)
    assert mean.dtype == torch.float16 and (mean == 100).all()


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32])
def test_gradients_of_half_precision_count_all_rows(device, dtype):
    src = torch.randn(3, 4, device=device).to(dtype).requires_grad_()
    index = torch.tensor([0, 2], device=device).repeat_interleave(torch.tensor([3000, 5], device=device))
    taken = take_rows(src, index)
    assert torch.equal(taken, src[index]) and taken.dtype == dtype
    taken.backward(torch.full_like(taken, .25))
    torch.testing.assert_close(src.grad[:, 0].float(), torch.tensor([750, 0, 1.25], device=device), rtol=.004, atol=0)
    same = torch.ones(3000, 1, dtype=dtype, device=device, requires_grad=True)  # all are the maximum
    scatter_max(same, index[:3000], 1).sum().backward()
    torch.testing.assert_close(same.grad.float().sum(), torch.tensor(1., device=device), rtol=.005, atol=0)
