"""CULane's lanes from probability maps, by SCNN's rule."""
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from perception.lanes.datasets.culane.reader import SIZE
from perception.lanes.decode import check_batch, drop_short, existing_slots, row_maxima
from perception.registry import TASK_UTILS
from perception.utils.errors import ConfigError


@TASK_UTILS.register_module()
class CULaneDecoder:
    """SCNN's rule for CULane: per slot the most probable column of every 20th row.

    A slot's map is averaged over 9 x 9 pixels and rounded to 8 bits. Points whose mean exceeds the threshold make the
    lane; one of fewer than two points is dropped. Images of another height than the official one have as many points,
    nearer or farther apart.

    Args:
        step: rows between two points, in an image of the official height.
        num_points: of a lane at most; the lowest lies on the last row.
        threshold: of the averaged probability.
        exist_threshold: of the existence of a slot's lane.
        kernel: width of the average in the network's image, odd, 15 at most.
        padding: beyond the edge, 'zeros' (SCNN) or 'reflect' (OpenCV's blur, ERFNet).
        keep_slots: give an empty (0, 2) lane for each slot without lane, so that positions tell the slot.
    """

    image_rows = SIZE[0]

    def __init__(self, step: int = 20, num_points: int = 18, threshold: float = 0.3, exist_threshold: float = 0.5,
                 kernel: int = 9, padding: str = 'zeros', keep_slots: bool = False) -> None:
        self.step, self.num_points, self.keep_slots = step, num_points, keep_slots
        self.threshold, self.exist_threshold = threshold, exist_threshold
        if kernel % 2 != 1 or not 1 <= kernel <= 15 or padding not in ('zeros', 'reflect'):
            raise ConfigError(f'{type(self).__name__}: kernel={kernel}, padding={padding!r}, expected an odd width up '
                              'to 15, and zeros or reflect. Correct them.')
        self.kernel, self.padding = kernel, padding

    def __call__(self, lane_probs: Tensor, exist_probs: Tensor | None, metas: Sequence[dict]) -> list[list[np.ndarray]]:
        """Lanes of each image.

        Args:
            lane_probs: (B, 1 + L, h, w), the background first.
            exist_probs: (B, L), or None when every slot may have a lane.
            metas: for each image `original_shape` (H0, W0) and `crop_top` (0 by default).

        Raises:
            DataError: shapes that do not belong together.
        """
        shapes = check_batch(lane_probs, exist_probs, metas)
        exist = existing_slots(lane_probs, exist_probs, self.exist_threshold)
        height, width = lane_probs.shape[-2:]
        lanes: list[list[np.ndarray]] = [[] for _ in metas]
        for shape in set(shapes):
            images = [i for i, other in enumerate(shapes) if other == shape]
            rows, v = self.rows(height, shape)
            values, columns = row_maxima(lane_probs[images, 1:], rows, self.kernel, self.padding)
            u = np.floor((columns + 1) * (shape[1] / width) + 0.5) - 1
            good = (values > self.threshold * 255) & exist[images, :, None]
            for i, image in enumerate(images):
                found = [np.stack([u[i, k, keep], v[keep]], axis=1) for k, keep in enumerate(good[i])]
                lanes[image] = drop_short(found, self.keep_slots)
        return lanes

    def rows(self, height: int, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Rows to look at in a map of so many rows, and their v in the original image; the lowest first."""
        offset = self.step * shape[0] / self.image_rows * np.arange(self.num_points)
        rows = np.floor(height - offset / (shape[0] - shape[2]) * height + 0.5).astype(int) - 1
        inside = rows >= 0
        return rows[inside], (shape[0] - 1 - offset[inside]).astype(float)
