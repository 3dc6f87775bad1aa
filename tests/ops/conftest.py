"""What tests of operators share."""
import pytest
import torch
from mmengine.utils import digit_version

from perception.ops import launch


@pytest.fixture
def new_triton():
    """Skips with Triton before 3.3, which knows no sm_120 and whose interpreter copies what it is given."""
    triton = pytest.importorskip('triton', reason='triton is not installed')
    if digit_version(triton.__version__) < digit_version('3.3'):
        pytest.skip(f'Triton {triton.__version__}, before 3.3')


@pytest.fixture
def as_if_on_gpu(monkeypatch):
    """Tensors that say they are on a GPU, whose kernels Triton's interpreter runs; the list of what the log says."""
    lines = []
    monkeypatch.setattr(torch.Tensor, 'is_cuda', property(lambda tensor: True))
    monkeypatch.setattr(launch, 'has_triton', lambda: True)
    monkeypatch.setattr(launch, '_cannot_compile', set())
    monkeypatch.setattr(launch, 'print_log', lambda text, *rest: lines.append(text))
    return lines
