"""Map layers or vehicles as masks seen from above, with the losses of three protocols.

BEVFusion (Liu et al., ICRA 2023): focal loss of each layer. LSS (Philion, Fidler, ECCV 2020): weighted cross-entropy.
CVT (Zhou, Kraehenbuehl, CVPR 2022): focal loss where objects are visible, and a map of their centres beside it.

Shapes: B samples, M layers, features of Y' x X' cells, labels of Y x X cells of any other grid.
"""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from perception.bev.geometry import BEVGrid
from perception.common.nets.blocks import init_convs, init_last
from perception.registry import MODELS
from perception.utils.checks import check_choice, check_positive
from perception.utils.errors import ConfigError, DataError

REACH = 3  # cells from a centre at which its score is exp(-9)


@MODELS.register_module()
class MapHead(nn.Module):
    """Features on the grid of labels, convolutions, a mask for each layer.

    Args:
        in_channels: of the features.
        grid: of the features.
        classes: names of the layers, in the order of `map_labels`.
        label_grid: dict of `x` and `y` of the labels, least, greatest and size of a cell [m]; None as the features.
        channels: of the convolutions; None as many as the features have.
        layers: 3 x 3 convolutions before the last 1 x 1.
        loss: 'focal' or 'bce'.
        gamma: exponent of the error in the focal loss.
        pos_weight: of cells in a layer, in 'bce'.
        center_weight: of the loss of a map of centres; 0 leaves it out.
        center_labels: classes of boxes that have centres there; None all.

    Raises:
        ConfigError: no layers, or a loss that is not known.
    """

    def __init__(self, in_channels: int, grid: BEVGrid, classes: Sequence[str], label_grid: dict | None = None,
                 channels: int | None = None, layers: int = 2, loss: str = 'focal', gamma: float = 2.0,
                 pos_weight: float = 1.0, center_weight: float = 0.0, center_labels: Sequence[int] | None = None):
        super().__init__()
        check_choice('MapHead: loss', loss, ('focal', 'bce'))
        check_positive('MapHead', pos_weight=pos_weight)
        if not classes or len({*classes}) < len(classes):
            raise ConfigError(f'MapHead: classes={[*classes]}, expected different names of layers. Correct them.')
        self.classes, self.loss_kind, self.gamma, self.pos_weight = tuple(classes), loss, gamma, pos_weight
        self.center_weight, self.center_labels = center_weight, center_labels
        self.grid = grid if label_grid is None else BEVGrid(**{'z': grid.z, **label_grid})
        same = (self.grid.x, self.grid.y) == (grid.x, grid.y)
        self.register_buffer('places', None if same else _places(self.grid, grid), persistent=False)
        channels, modules = channels or in_channels, []
        for i in range(layers):
            modules += [nn.Conv2d(channels if i else in_channels, channels, 3, padding=1, bias=False),
                        nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        self.convs = nn.Sequential(*modules)
        init_convs(self.convs)
        self.last = nn.Conv2d(channels if layers else in_channels, len(classes) + (center_weight > 0), 1)
        init_last(self.last)

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, Y', X') to logits (B, M, Y, X), behind them those of centres if there is such a map."""
        if self.places is not None:
            # places in bfloat16 would lie beside theirs, by a tenth of a metre on 100 m
            features = features.to(torch.promote_types(features.dtype, torch.float32))
            places = self.places.to(features.dtype).expand(features.shape[0], -1, -1, -1)
            features = F.grid_sample(features, places, align_corners=False)
        return self.last(self.convs(features))

    def loss(self, logits: Tensor, samples: Sequence[BaseDataElement]) -> dict[str, Tensor]:
        """Mean over the cells that count, of each layer; in float32.

        Args:
            logits: of `forward`.
            samples: with `map_labels` (M, Y, X), where need be `map_mask` (Y, X), and `boxes` for a map of centres.

        Returns:
            scalars `loss_LAYER`, and `loss_center` with such a map.

        Raises:
            DataError: samples without labels, or with those of another shape, place or names.
        """
        logits = logits.float()
        labels, mask = self._targets(samples, logits)
        count = mask.sum().clamp(min=1)
        layers = logits[:, :len(self.classes)]
        if self.loss_kind == 'bce':
            weight = logits.new_tensor(self.pos_weight)
            errors = F.binary_cross_entropy_with_logits(layers, labels, pos_weight=weight, reduction='none')
        else:
            errors = focal(layers, labels, self.gamma)
        means = (errors * mask).sum((0, 2, 3)) / count
        losses = {f'loss_{name}': mean for name, mean in zip(self.classes, means)}
        if self.center_weight:
            errors = focal(logits[:, len(self.classes):], self.centers(samples), self.gamma)
            losses['loss_center'] = self.center_weight * (errors * mask).sum() / count
        return losses

    @torch.no_grad()
    def centers(self, samples: Sequence[BaseDataElement]) -> Tensor:
        """exp(-d^2), d the distance to the centre of a box in cells; the highest counts, 0 beyond `REACH`.

        Args:
            samples: with `boxes` (K, 7 or 9) and `labels` (K,).

        Returns:
            (B, 1, Y, X) float32 on the device of the head.
        """
        device, (rows, columns) = self.last.weight.device, self.grid.shape
        target = torch.zeros(len(samples), rows, columns, device=device)
        steps = torch.arange(-REACH, REACH + 1, device=device)
        window = torch.stack(torch.meshgrid(steps, steps, indexing='xy'), -1).view(-1, 2)
        low, size = (torch.tensor([axis[i] for axis in (self.grid.x, self.grid.y)], device=device) for i in (0, 2))
        for plane, sample in zip(target, samples):
            boxes, labels = sample.boxes.to(device), sample.labels.to(device)
            if self.center_labels is not None:
                boxes = boxes[torch.isin(labels, labels.new_tensor(self.center_labels))]
            at = (boxes[:, :2] - low) / size
            at = at[at.isfinite().all(1)].clamp(-1e6, 1e6)
            cells = at.floor().long()[:, None] + window
            scores = (-(cells + .5 - at[:, None]).square().sum(-1)).exp()
            inside = ((cells >= 0) & (cells < cells.new_tensor([columns, rows]))).all(-1)
            flat = (cells[..., 1] * columns + cells[..., 0])[inside]
            plane.view(-1).scatter_reduce_(0, flat, scores[inside].float(), 'amax')
        return target[:, None]

    @torch.no_grad()
    def predict(self, logits: Tensor) -> Tensor:
        """Probabilities (B, M, Y, X) float32 of the layers."""
        return logits[:, :len(self.classes)].float().sigmoid()

    def check(self, samples: Sequence[BaseDataElement]) -> None:
        """See that maps of samples lie where the head's do and mean the same, which equal shapes do not tell.

        Args:
            samples: with `map_bounds` and `map_classes` where their data have maps.

        Raises:
            DataError: they do not.
        """
        (x0, x1, _), (y0, y1, _) = self.grid.x, self.grid.y
        for number, sample in enumerate(samples):
            for key, value in dict(map_bounds=(x0, y0, x1, y1), map_classes=self.classes).items():
                if tuple(sample.get(key, value)) != value:
                    raise DataError(f'MapHead: sample {sample.get("sample_id", number)} with {key} {sample.get(key)}, '
                                    f'expected {value}. Give data and head the same map preset and grid: map_preset '
                                    'and map_grid of the data, classes and label_grid of the head.')

    def _targets(self, samples: Sequence[BaseDataElement], logits: Tensor) -> tuple[Tensor, Tensor]:
        """Labels (B, M, Y, X) and where they count (B, 1, Y, X), float32."""
        expected = (len(self.classes), *logits.shape[2:])
        self.check(samples)
        for number, sample in enumerate(samples):
            labels, mask = sample.get('map_labels'), sample.get('map_mask')
            if labels is None or tuple(labels.shape) != expected or (
                    mask is not None and tuple(mask.shape) != expected[1:]):
                came = 'no map_labels' if labels is None else f'map_labels of shape {tuple(labels.shape)}'
                raise DataError(f'MapHead: sample {sample.get("sample_id", number)} with {came}, expected {expected} '
                                f'for the layers {", ".join(self.classes)}, and a map_mask to match. Give data and '
                                'head the same map preset.')
        labels = torch.stack([sample.map_labels.to(logits.device) for sample in samples])
        everywhere = torch.ones(expected[1:], device=logits.device)
        mask = torch.stack([everywhere if 'map_mask' not in sample else sample.map_mask.to(everywhere)
                            for sample in samples])
        return labels.to(logits.dtype), mask[:, None]


def focal(logits: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    """Cross-entropy of each cell times a power of its error, without a weight of classes.

    Args:
        logits: any shape.
        target: as many, 0..1.
        gamma: the power.
    """
    probs = logits.sigmoid()
    error = probs * (1 - target) + (1 - probs) * target
    return F.binary_cross_entropy_with_logits(logits, target, reduction='none') * error ** gamma


def _places(labels: BEVGrid, features: BEVGrid) -> Tensor:
    """(1, Y, X, 2) x, y of the centres of label cells as grid_sample counts in the features' grid."""
    low, high = (torch.tensor([axis[i] for axis in (features.x, features.y)]) for i in (0, 1))
    return (2 * (labels.centres()[..., :2] - low) / (high - low) - 1)[None].float()
