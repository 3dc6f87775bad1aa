"""What the tests of several networks share."""
import warnings

import numpy as np
import pytest
import torch
from torch import nn


@pytest.fixture(scope='session')
def exported():
    """Runs a network's ONNX export: (network, images, file) to [logits, exist_logits] of onnxruntime."""
    pytest.importorskip('onnx', reason='onnx is not installed')
    onnxruntime = pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')

    class Wrapped(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, images):
            return tuple(self.net.compute(images).values())

    def run(net, images, file):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # the exporter's own deprecations
            torch.onnx.export(Wrapped(net).eval(), (images,), file, opset_version=17, dynamo=False)
        session = onnxruntime.InferenceSession(file, providers=['CPUExecutionProvider'])
        return session.run(None, {session.get_inputs()[0].name: images.numpy()})
    return run


@pytest.fixture(scope='session')
def golden(shared):
    """Reads a golden: its name to a dict of tensors."""
    def read(name):
        with np.load(shared / f'goldens/{name}.npz') as file:
            return {key: torch.from_numpy(file[key]) for key in file.files}
    return read


@pytest.fixture(scope='session')
def shuffled():
    """Gives a network's batch norms other statistics and scales than a fresh network has; in evaluation mode."""
    def shuffle(net):
        generator = torch.Generator().manual_seed(0)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                for value, low, high in ((module.running_mean, -.2, .2), (module.running_var, .5, 1.5),
                                         (module.weight.data, .5, 1.5), (module.bias.data, -.2, .2)):
                    value.copy_(torch.rand(len(value), generator=generator) * (high - low) + low)
        return net.eval()
    return shuffle
