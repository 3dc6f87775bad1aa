"""What tests of LiDAR nets share."""
from types import SimpleNamespace

import pytest
import torch

from perception.ops import launch
from perception.ops.sparse import functional
from perception.ops.sparse.backends import torch as torch_backend


@pytest.fixture
def gpu(monkeypatch):
    """Tensors that say they are on a GPU, maps by PyTorch and products by tables."""
    tables = SimpleNamespace(
        __name__='tables', serves=lambda x: True,
        forward=lambda x, weight, kernel_map: torch_backend.implicit(x, weight.flatten(1, 3), kernel_map),
        backward=torch_backend._backward_of_tiles)
    monkeypatch.setattr(functional, '_backend', tables)
    monkeypatch.setattr(launch, 'has_triton', lambda: False)
    monkeypatch.setattr(torch.Tensor, 'is_cuda', property(lambda tensor: True))
    monkeypatch.setattr(torch.Tensor, 'is_cpu', property(lambda tensor: False))
