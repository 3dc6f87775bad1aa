"""Test-time augmentation of nets that classify pixels: several scales, each in windows at its corners (IntRA-KD)."""
from collections.abc import Sequence

import cv2
import torch
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn
from torch.nn import functional

from perception.lanes.losses import at_least_float32
from perception.registry import MODELS
from perception.utils.checks import check_choice, rows_and_columns
from perception.utils.errors import ConfigError

MODES = ('windows', 'scales', 'scales_released')


@MODELS.register_module()
class ScaledWindows(nn.Module):
    """Wraps a LaneNet so that `test_step` adds what it says of an image at several scales.

    At each scale four windows, one at each corner, are seen by the net, and their logits averaged where they overlap.
    The mean over all scales, at the first one, is the prediction.

    Args:
        model: a LaneNet without existence head, whose images may have any size.
        mode: 'windows', the first scale alone; 'scales', all; 'scales_released', all but the first, for IntRA-KD's
            released code computes that one and never adds it. Its published scores were reached so.
        sizes: (H, W) of the image at each scale, without the rows that the data set cuts off.
        window: (H, W) of what the net sees at once; so large that four cover each scale.

    Raises:
        ConfigError: an unknown mode, windows that leave gaps or a net that takes no such windows.
    """

    finds_lanes = False

    def __init__(self, model: nn.Module | dict, mode: str = 'scales', sizes: Sequence[Sequence[int]] = (),
                 window: Sequence[int] = (0, 0)) -> None:
        super().__init__()
        check_choice('test-time augmentation: mode', mode, MODES)
        self.model = MODELS.build(model) if isinstance(model, dict) else model
        self.window = rows_and_columns('ScaledWindows: window', window)
        self.sizes = [rows_and_columns('ScaledWindows: sizes', size) for size in sizes]
        if len(self.sizes) < 2 or any(side > whole or whole > 2 * side for size in self.sizes
                                      for side, whole in zip(self.window, size)):
            raise ConfigError(f'ScaledWindows: sizes={self.sizes} with window={self.window}, expected two sizes or '
                              'more, between one and two windows in height and in width. Correct them.')
        if self.model.num_lanes or any(side % self.model.size_multiple for side in self.window):
            raise ConfigError(f'ScaledWindows: {type(self.model).__name__} with num_lanes={self.model.num_lanes}, for '
                              f'images of multiples of {self.model.size_multiple}, and window={self.window}, expected '
                              'a net without existence head, and such multiples. Leave --tta out, or correct window.')
        self.chosen = dict(windows=[0], scales=range(len(sizes)), scales_released=range(1, len(sizes)))[mode]

    @torch.no_grad()
    def test_step(self, data: dict) -> list:
        """Predict a batch as it comes from the data loader.

        Args:
            data: `inputs` with `image`, a list of (3, H, W) uint8 tensors, RGB, and `data_samples`, a LaneSample each.

        Returns:
            the samples with `lane_probs` (C, h, w) and `pred_labels` (h, w) at the first scale.
        """
        for image, sample in zip(data['inputs']['image'], data['data_samples']):
            probs = self.scores(image).softmax(dim=0)
            sample.set_data(dict(lane_probs=probs, pred_labels=probs.argmax(dim=0)))
        return data['data_samples']

    def scores(self, image: Tensor) -> Tensor:
        """Mean logits of an image over all scales.

        Args:
            image: (3, H, W) uint8 RGB, of any size.

        Returns:
            (C, h, w) float32, of the first size.
        """
        pixels, first, total = image.permute(1, 2, 0).cpu().numpy(), self.sizes[0], 0
        for k in self.chosen:
            height, width = self.sizes[k]
            scaled = torch.from_numpy(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR))
            found = self._windows(scaled.permute(2, 0, 1))
            total = total + functional.interpolate(found[None], first, mode='bilinear', align_corners=False)[0]
        return total / len(self.chosen)

    def _windows(self, image: Tensor) -> Tensor:
        """Logits (C, H, W) float32 of an image (3, H, W), averaged where its windows overlap."""
        (rows, columns), (height, width) = self.window, image.shape[1:]
        corners = [(top, left) for top in dict.fromkeys((0, height - rows))
                   for left in dict.fromkeys((0, width - columns))]
        parts = [dict(inputs=dict(image=image[:, top:top + rows, left:left + columns].contiguous()), data_samples=None)
                 for top, left in corners]
        data = self.model.data_preprocessor(dict(pseudo_collate(parts), data_samples=None), False)
        found = at_least_float32(self.model(**data, mode='tensor')['logits'])  # (4, C, rows, columns)
        total, counts = found.new_zeros(found.shape[1], height, width), found.new_zeros(height, width)
        for (top, left), logits in zip(corners, found):
            total[:, top:top + rows, left:left + columns] += logits
            counts[top:top + rows, left:left + columns] += 1
        return total / counts
