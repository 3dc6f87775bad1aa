"""Test-time augmentation: a detector sees each scan and its mirror image, and the maps of both are averaged."""
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from perception.crowd.models.centerpoint import CenterPoint
from perception.registry import MODELS
from perception.utils.checks import check_choice
from perception.utils.errors import ConfigError

MODES = ('flip',)


@MODELS.register_module()
class FlipDetector(nn.Module):
    """Wraps a CenterPoint so that `test_step` predicts from the mean of two views; y of the second one is mirrored.

    Args:
        model: the net; its range has equal parts on both sides of y = 0.
        mode: 'flip'.

    Raises:
        ConfigError: another mode, or a range that is not its own mirror image.
    """

    def __init__(self, model: CenterPoint, mode: str = 'flip') -> None:
        super().__init__()
        check_choice('test-time augmentation: mode', mode, MODES)
        grid = model.head.grid
        if abs(2 * grid.low[1] + grid.shape[0] * grid.cell[1]) > 1e-3 * grid.cell[1]:
            raise ConfigError(f'test-time augmentation: a range that begins at y = {grid.low[1]} m and ends at '
                              f'{grid.low[1] + grid.shape[0] * grid.cell[1]:g} m, expected one that is its own mirror '
                              'image. Train with such a range.')
        self.model = model

    @torch.no_grad()
    def test_step(self, data: dict) -> list:
        """Predict a batch as it comes from the data loader.

        Args:
            data: `inputs` with `points`, a list of (N, 4 or more) tensors, and what else the net looks at, and
                `data_samples`, a BoxSample each.

        Returns:
            the samples with `pred_boxes` (P, 9), `pred_scores` (P,) and `pred_labels` (P,).
        """
        model = self.model
        data = model.data_preprocessor(data, False)
        inputs = data['inputs']
        points = inputs['points']
        mirror = points[0].new_ones(points[0].shape[1])
        mirror[1] = -1
        other = dict(inputs, points=[scan * mirror for scan in points])
        if 'to_image' in inputs:  # the same image of a mirrored world
            other['to_image'] = [matrix * matrix.new_tensor([1, -1, 1, 1]) for matrix in inputs['to_image']]
        first, second = (model.head.complete(model.maps(view)) for view in (inputs, other))
        maps = [average(one, mirrored(other)) for one, other in zip(first, second)]
        return model.predict(maps, data.get('data_samples'))


def mirrored(maps: dict[str, Tensor]) -> dict[str, Tensor]:
    """The maps of one task as they are of the mirror image, y becoming -y; what lies beside the maps is left out.

    Args:
        maps: name -> (B, D, H, W), see CenterHead.
    """
    maps = {name: value.flip(2) for name, value in maps.items() if isinstance(value, Tensor)}
    x, y = maps['reg'].unbind(1)
    sine, cosine = maps['rot'].unbind(1)
    maps.update(reg=torch.stack([x, 1 - y], 1), rot=torch.stack([-sine, cosine], 1))
    if 'vel' in maps:
        maps['vel'] = maps['vel'] * maps['vel'].new_tensor([1, -1]).view(1, 2, 1, 1)
    return maps


def average(*maps: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean of maps of one task: of the scores, as logits again, and of the rows of boxes."""
    result = {name: _mean([one[name].float() for one in maps]) for name in maps[-1]}
    scores = _mean([one['heatmap'].float().sigmoid() for one in maps])
    return dict(result, heatmap=scores.logit(eps=1e-6))


def _mean(values: Sequence[Tensor]) -> Tensor:
    return sum(values[1:], values[0]) / len(values)
