"""What tests of operators share."""
import pytest
import torch

from perception.ops import launch


@pytest.fixture
def as_if_on_gpu(monkeypatch):
    """Tensors that say they are on a GPU, whose kernels Triton's interpreter runs; the list of what the log says."""
    lines = []
    monkeypatch.setattr(torch.Tensor, 'is_cuda', property(lambda tensor: True))
    monkeypatch.setattr(launch, 'has_triton', lambda: True)
    monkeypatch.setattr(launch, '_cannot_compile', set())
    monkeypatch.setattr(launch, 'print_log', lambda text, *rest: lines.append(text))
    return lines
