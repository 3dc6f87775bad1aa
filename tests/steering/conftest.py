"""Small nets and random clips of the room's tests."""
from collections.abc import Callable

import pytest
import torch

from perception.common.structures import SteeringSample
from perception.steering.models.fm_net import SteeringNet
from perception.steering.models.heads import AutoregressiveLSTM, FrameHead
from perception.steering.models.resnet3d import ResNet3d


@pytest.fixture(scope='session')
def tiny_net() -> Callable[..., SteeringNet]:
    """Makes a SteeringNet, or another class of net, for 32 x 32 pixels, with arguments of its trunk and its own."""
    def make(trunk: dict | None = None, head: dict | None = None, predictor: dict | None = None, kind=SteeringNet,
             seed: int = 0, **arguments) -> SteeringNet:
        torch.manual_seed(seed)
        return kind(dict(dict(type=ResNet3d, base_channels=4, blocks=(1, 1, 1, 1)), **(trunk or {})),
                    dict(dict(type=FrameHead, widths=(16,), features=8, drop=0.0), **(head or {})),
                    predictor or dict(type=AutoregressiveLSTM, hidden=8), input_size=(32, 32), **arguments)
    return make


@pytest.fixture(scope='session')
def random_batch() -> Callable[..., dict]:
    """Makes a batch as the data sets do: random clips of `frames` frames with targets and actions."""
    def make(count: int = 2, frames: int = 6, size: int = 32, seed: int = 0) -> dict:
        generator = torch.Generator().manual_seed(seed)
        clips = [torch.randint(256, (frames, 3, size, size), generator=generator, dtype=torch.uint8)
                 for _ in range(count)]
        samples = []
        for i in range(count):
            sample = SteeringSample(metainfo=dict(sample_id=f'drive{i}/0', recording=f'drive{i}',
                                                  frames=[str(k) for k in range(frames)]))
            sample.targets = torch.randn(frames, 3, generator=generator) * torch.tensor([20., 1, 5])
            sample.actions = torch.randint(4, (frames,), generator=generator)
            sample.first = torch.arange(frames) == 0
            sample.scored = torch.ones(frames, dtype=torch.bool)
            samples.append(sample)
        return dict(inputs=dict(clip=clips), data_samples=samples)
    return make
