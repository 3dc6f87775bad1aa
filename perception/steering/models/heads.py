"""From the maps of each frame to 128 numbers for the predictor (FM-Net, section 'main network').

Shapes: B clips of T frames; maps (B, C, T, h, w); features (B, T, F).
"""
import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.registry import MODELS
from perception.utils.errors import ConfigError


@MODELS.register_module()
class FrameHead(nn.Module):
    """Fully connected layers with ReLU and dropout, the same for each frame; the last one with ELU and layer norm.

    The first layer has most of the parameters of FM-Net: 52.4 M of 99.3 M.

    Args:
        maps: channels, rows and columns of each of the trunk's outputs, by name, the deepest last.
        widths: of the layers before the last one.
        features: F, of the last layer.
        drop: share of the features that training leaves out after each layer (published: keep 0.25).
        pool: average the map to so many rows and columns first; None keeps it, as published.
        norm_over_time: normalise over all frames of a clip together, as the released code does; a frame then sees
            those after it. False normalises each frame.
        levels: also add a linear layer from each of the trunk's outputs before the norm, as komanda's net does.
    """

    def __init__(self, maps: Mapping[str, tuple[int, int, int]], widths: Sequence[int] = (1024, 512, 256),
                 features: int = 128, drop: float = 0.75, pool: int | None = None, norm_over_time: bool = False,
                 levels: bool = False):
        super().__init__()
        self.deepest = list(maps)[-1]
        self.map_size, self.pool, self.norm_over_time = maps[self.deepest][1:], pool, norm_over_time
        size = maps[self.deepest][0] * (pool * pool if pool else math.prod(self.map_size))
        layers: list[nn.Module] = []
        for width in widths:
            layers += [nn.Linear(size, width), nn.ReLU(inplace=True), nn.Dropout(drop)]
            size = width
        self.layers = nn.Sequential(*layers, nn.Linear(size, features))
        self.levels = nn.ModuleDict({name: nn.Linear(math.prod(shape), features) for name, shape in maps.items()}
                                    if levels else {})
        self.norm, self.drop, self.features = nn.LayerNorm(features), nn.Dropout(drop), features

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        """The trunk's outputs to (B, T, F).

        Raises:
            ConfigError: maps of another size.
        """
        deepest = maps[self.deepest]
        if tuple(deepest.shape[3:]) != self.map_size:
            raise ConfigError(f'FrameHead: maps of {" x ".join(map(str, deepest.shape[3:]))}, expected '
                              f'{" x ".join(map(str, self.map_size))}. Set input_size to the frames of the data set.')
        if self.pool:
            deepest = F.adaptive_avg_pool3d(deepest, (None, self.pool, self.pool))
        x = self.layers(rows(deepest))
        for name, linear in self.levels.items():
            x = x + linear(rows(maps[name]))
        x = F.elu(x)
        if self.norm_over_time:  # jointly over frames and features, with a gain and a bias for each feature
            x = F.layer_norm(x, x.shape[1:], eps=self.norm.eps) * self.norm.weight + self.norm.bias
        else:
            x = self.norm(x)
        return self.drop(x)


def rows(maps: Tensor) -> Tensor:
    """Each frame's map as one row: (B, C, T, h, w) to (B, T, C h w)."""
    return maps.transpose(1, 2).flatten(2)


@MODELS.register_module()
class AutoregressiveLSTM(nn.Module):
    """An LSTM cell with a projection that sees what was said of the frame before (FM-Net, komanda).

    For each frame with features v: h, c = LSTM([y; v], h, c), h = W h, y = V [h; y; v] + b, where y on the right is
    that of the frame before. All y are normalised targets, or the scores of classes, which go back as probabilities.

    The state is one tensor (B, K + 2 hidden): y, c and h. At the start of a clip it is learned.

    Args:
        features: F, of a frame.
        outputs: K.
        hidden: of the cell.
        classes: the outputs are scores of classes.
    """

    def __init__(self, features: int, outputs: int = 3, hidden: int = 32, classes: bool = False):
        super().__init__()
        self.outputs, self.hidden, self.classes = outputs, hidden, classes
        self.cell = nn.LSTMCell(outputs + features, hidden)
        self.project = nn.Linear(hidden, hidden, bias=False)
        self.last = nn.Linear(hidden + outputs + features, outputs)
        self.initial = nn.Parameter(torch.zeros(outputs + 2 * hidden))
        with torch.no_grad():  # input, forget, cell, output gate
            self.cell.bias_ih.zero_()
            self.cell.bias_hh.zero_()
            self.cell.bias_ih[hidden:2 * hidden] = 1

    def forward(self, features: Tensor, state: Tensor | None = None,
                given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Say what each frame comes to.

        Args:
            features: (B, T, F) of the frames.
            state: (B, K + 2 hidden) after the frame before, None at the start of a clip.
            given: (B, T, K) true outputs, which go back instead of its own (teacher forcing); where they are NaN its
                own do.

        Returns:
            (B, T, K) outputs, and the state after the last frame.
        """
        if state is None:
            state = self.initial.expand(len(features), -1)
        said, cell, hidden = state.split([self.outputs, self.hidden, self.hidden], 1)
        found = []
        with _exact(features):
            for feature in features.to(self.last.weight.dtype).unbind(1):
                seen = torch.cat([said, feature], 1)
                hidden, cell = self.cell(seen, (hidden, cell))
                hidden = self.project(hidden)
                scores = self.last(torch.cat([hidden, seen], 1))
                said = scores.softmax(1) if self.classes else scores
                if given is not None:
                    truth = given[:, len(found)]
                    said = torch.where(truth.isnan(), said, truth)
                found.append(scores)
        return torch.stack(found, 1), torch.cat([said, cell, hidden], 1)


@MODELS.register_module()
class FramePredictor(nn.Module):
    """A linear layer: each frame for itself, for the nets without an LSTM. Its state is empty, (B, 0).

    Args:
        features: F, of a frame.
        outputs: K.
        classes: not used; see AutoregressiveLSTM.
    """

    def __init__(self, features: int, outputs: int = 3, classes: bool = False):
        super().__init__()
        self.last = nn.Linear(features, outputs)

    def forward(self, features: Tensor, state: Tensor | None = None,
                given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, T, F) to (B, T, K), and the empty state; `given` says nothing to it."""
        with _exact(features):
            return self.last(features.to(self.last.weight.dtype)), features.new_zeros(len(features), 0)


def _exact(features: Tensor) -> torch.autocast:
    """Outputs in the precision of the weights, whatever autocast says: a step of bfloat16 is a tenth of a degree."""
    return torch.autocast(features.device.type, enabled=False)
