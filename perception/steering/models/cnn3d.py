"""The challenge winner's 3D CNN with a linear way out of every layer (komanda, Udacity challenge 2, 2016).

Kernels look back in time only, so that the net can run frame by frame, see `Memory` of `resnet3d.py`.

Shapes: B clips of T frames of H x W pixels; features (B, C, T, h, w).
"""
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from perception.registry import MODELS
from perception.steering.models.resnet3d import Memory, TimeConv
from perception.utils.errors import ConfigError

TIMES = (3, 2, 2, 2)  # frames of each kernel: five frames before the one at hand are seen


@MODELS.register_module()
class CNN3d(nn.Module):
    """Four convolutions `conv1` .. `conv4` without padding in space, each with ReLU and dropout.

    The released net sees 480 x 640 pixels and five frames before each clip; here these frames are zeros where a clip
    begins, as in the other nets, and the last frames where a video runs on.

    Args:
        channels: of each layer.
        kernels: rows and columns of each kernel.
        strides: of rows and columns.
        drop: share of the features that training leaves out after each layer.

    Raises:
        ConfigError: not four kernels and strides.
    """

    causal, batch_statistics = True, False

    def __init__(self, channels: int = 64, kernels: Sequence[int] = (12, 5, 5, 5),
                 strides: Sequence[int] = (6, 2, 1, 1), drop: float = 0.75):
        super().__init__()
        if not len(kernels) == len(strides) == len(TIMES):
            raise ConfigError(f'CNN3d: kernels={kernels}, strides={strides}, expected four of each. Correct them.')
        self.names = [f'conv{i}' for i in (1, 2, 3, 4)]
        self.drop = nn.Dropout(drop)
        for i, (time, kernel, stride) in enumerate(zip(TIMES, kernels, strides)):
            conv = TimeConv(channels if i else 3, channels, (time, kernel, kernel), stride, padded=False, causal=True,
                            bias=True)
            nn.init.kaiming_normal_(conv.weight, nonlinearity='relu')
            nn.init.zeros_(conv.bias)
            setattr(self, f'conv{i + 1}', conv)

    def forward(self, clip: Tensor, memory: Memory | None = None) -> dict[str, Tensor]:
        """The features of a clip.

        Args:
            clip: (B, 3, T, H, W) normalised.
            memory: the frames before the clip, changed to those before what comes next.

        Returns:
            `conv1` .. `conv4`, each (B, channels, T, h, w), the later the smaller.
        """
        memory, features, x = memory or Memory(), {}, clip
        for name in self.names:
            x = features[name] = self.drop(F.relu(getattr(self, name)(x, memory)))
        return features
