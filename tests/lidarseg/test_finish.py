"""Blocks whose BatchNorm and activation the Triton backend applies: on a GPU, else in Triton's interpreter."""
import pytest
import torch

pytest.importorskip('triton', reason='triton is not installed')
from perception.distill.taps import record
from perception.lidarseg.models.cylinder3d import ConvActNorm
from perception.lidarseg.models.minkunet import ResBlock
from perception.ops.sparse.backends import triton as backend
from perception.ops.sparse.functional import set_backend
from perception.ops.sparse.tensor import SparseTensor

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
GRID = (5, 5, 3)


def test_norms_and_activations_inside_a_product_change_no_output(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    coords = (torch.rand(2, *GRID, generator=generator) < 0.2).nonzero().to(DEVICE)
    x = SparseTensor(torch.randn(len(coords), 3, generator=generator).to(DEVICE), coords, GRID, 2)
    used = []
    finished = backend.forward_finished
    monkeypatch.setattr(backend, 'forward_finished', lambda *given: used.append(1) or finished(*given))
    for net, convolutions in ((ConvActNorm(3, 4, (1, 1, 3)), 1), (ResBlock(3, 4, 5, True), 3)):
        net.train().to(DEVICE)(x)  # running statistics
        outputs, taps = [], dict(sums='conv2.conv') if convolutions > 1 else {}
        for name in ('torch', 'triton'):
            set_backend(name)
            with torch.no_grad():
                outputs.append(net.eval()(x).feats)
        assert len(used) == convolutions
        recorded = []
        for name in ('torch', 'triton'):  # what a teacher's tap on a convolution sees is the convolution
            set_backend(name)
            with torch.no_grad(), record(net, taps) as found:
                net(x)
            recorded.append([value.feats for value in found.values()])
        set_backend('auto')
        torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(*recorded, rtol=1e-4, atol=1e-4)
        used.clear()
