"""How often a prediction and a training step make the host wait for a GPU, counted on a CPU.

Tensors say that they are on CUDA, so that the code takes its ways for a GPU; sparse convolutions are multiplied by
tables, which read of a map what the Triton kernels read. The optimiser is left out: on CUDA it steps all parameters at
once and asks nothing.
"""
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.optim import OptimWrapper
from mmengine.structures import BaseDataElement
from torch import nn

from perception.apis.config import load_config
from perception.apis.runner import Runner
from perception.common.finite import FiniteSteps
from perception.common.samplers import EpochSampler
from perception.common.structures import PointSegSample
from perception.registry import MODELS

# A wait tells a size that only the device knows. They are upper bounds: lower one when a wait is gone.
ALLOWED = {
    'cylinder3d': ['unique_voxels',  # V, the number of voxels
                   *['build_strided_map'] * 4],  # that of each coarser level; teacher and student share the maps
    'minkunet': ['cube_index',  # cells of the grid along each axis
                 'unique_voxels', *['build_strided_map'] * 4],
    'spvnas': ['cube_index', 'unique_voxels', *['build_strided_map'] * 4]}


def scans():
    """Two of noisy ground with clutter of two classes."""
    rng, points, samples = np.random.default_rng(0), [], []
    for count in (900, 700):
        labels = rng.choice([8, 5, 12, 255], count, p=[.6, .1, .25, .05])
        z = np.where(labels == 8, -1.7, rng.uniform(-1.7, 1, count)) + rng.normal(0, .05, count)
        xy = rng.uniform(-25, 25, (count, 2))
        points.append(torch.from_numpy(np.column_stack([xy, z, rng.uniform(0, 1, count)]).astype(np.float32)))
        samples.append(BaseDataElement(labels=torch.from_numpy(labels)))
    return dict(inputs=dict(points=points), data_samples=samples)


@pytest.mark.parametrize('backbone', ALLOWED)
def test_sizes_alone_are_waited_for(gpu, waits, monkeypatch, backbone):
    torch.manual_seed(0)
    cfg = load_config(f'configs/pvd/{backbone}_kitti.py', mini=True)
    cfg.model.teachers.full.trained_by = None
    model, data = MODELS.build(cfg.model), scans()
    cast = BaseDataPreprocessor.cast_data
    model.now()  # asks the device once after loading

    def predict():
        with torch.no_grad():
            model.eval()(**model.data_preprocessor(data), mode='predict')

    def step(model):
        losses = model.train()(**model.data_preprocessor(data, training=True), mode='loss')
        sum(losses.values()).backward()

    for call in (predict, lambda: step(model.student), lambda: step(model)):
        with waits() as found, monkeypatch.context() as patch:
            # what comes before, checks of the scans, looks at what the loader read, on the host
            patch.setattr(BaseDataPreprocessor, 'cast_data', lambda *args: found.clear() or cast(*args))
            call()
        assert all(any(place in where for place in ALLOWED[backbone]) for where in found), found
        assert len(found) <= len(ALLOWED[backbone]), found


def test_what_waits_is_found(waits):
    x, chosen = torch.arange(4.), torch.tensor([True, False, True, True])
    with waits() as found:
        x[chosen], x.nonzero(), x.sum().item(), x.tolist(), x.unique(), torch.bincount(x.long()), x[chosen.long()]
        x[chosen] = 1
        bool((x > 0).any()), x.cpu(), x.repeat_interleave(x.long()), torch.tensor([1, 2])
        x[chosen] = torch.ones(3)
    assert [where.split()[0] for where in found] == [
        'index', 'nonzero', '_local_scalar_dense', 'tolist', '_unique2', 'bincount', '_local_scalar_dense', 'cpu',
        'repeat_interleave', 'tensor', 'index_put_']


def test_loss_terms_come_to_the_host_at_once(gpu, waits):
    class Net(BaseModel):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def forward(self, inputs, data_samples=None, mode='loss'):
            return dict(loss_a=self.layer(inputs).sum(), loss_b=self.layer(inputs).square().mean(), share=torch.ones(1))

    net = Net()
    runner = SimpleNamespace(model=net, optim_wrapper=OptimWrapper(torch.optim.SGD(net.parameters(), 0.1)))
    step, batch = FiniteSteps(runner), dict(inputs=torch.ones(3, 2))
    with waits() as found:
        terms = step(batch)
    # the copy and a look at it on the host, then whether gradients are finite
    assert [where.split()[0] for where in found] == ['cpu', '_local_scalar_dense', '_local_scalar_dense']
    assert set(terms) == {'loss', 'loss_a', 'loss_b', 'share'} and terms['loss'] == terms['loss_a'] + terms['loss_b']


@pytest.mark.parametrize('there', [False, True])
def test_memory_is_pinned_only_where_cuda_is(monkeypatch, there):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: there)
    loader = dict(dataset=[0, 1], batch_size=1, sampler=dict(type=EpochSampler))
    assert Runner.build_dataloader(loader, seed=0).pin_memory is there
    assert not Runner.build_dataloader(dict(loader, pin_memory=False), seed=0).pin_memory
    assert 'pin_memory' not in loader


def test_samples_are_pinned_with_their_tensors(monkeypatch):
    monkeypatch.setattr(torch.Tensor, 'pin_memory', lambda tensor: tensor + 1)
    sample = PointSegSample(metainfo=dict(sample_id='a'))
    sample.labels, sample.note = torch.zeros(2), 'kept'
    pinned = sample.pin_memory()
    assert pinned.labels.tolist() == [1, 1] and pinned.sample_id == 'a' and pinned.note == 'kept'
    assert sample.labels.tolist() == [0, 0] and isinstance(pinned, PointSegSample)
