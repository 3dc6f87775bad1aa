"""What the submissions share, and the predictions that are read again: rounded lanes, images of classes."""
from pathlib import Path
from typing import Any

import numpy as np

from perception.common.formats.images import read_label_image
from perception.common.results import StoredFiles
from perception.common.submission import Submission
from perception.lanes.datasets.base import in_label_pixels
from perception.lanes.polylines import quantise
from perception.utils.errors import DataError

MAX_PIXEL = 1e5  # of a coordinate that can be meant


class LaneSubmission(Submission):
    """Base of the writers whose data sets ask for lanes as points."""

    def lanes(self, sample: dict) -> list[np.ndarray]:
        """The predicted lanes in pixels of the official images, rounded as text files hold them."""
        where = f'{type(self).__name__}: {sample["sample_id"]}'
        return [quantise(lane, where) for lane in in_label_pixels(self.need(sample, 'pred_lanes'), sample)]


class StoredImages(StoredFiles):
    """Base of the predictions that are images of the size of the data set's, `<last part of an id>.png`.

    Args:
        path: the folder.

    Raises:
        DataError: see StoredFiles; an image of another size, or with other numbers than the data set has.
    """

    parts = 1

    def fields(self, stored: Path, sample: Any) -> dict[str, Any]:
        image, size = read_label_image(stored), tuple(sample.original_shape)
        if image.shape != size:
            raise DataError(f'{stored}: {image.shape[0]} x {image.shape[1]} pixels, expected the {size[0]} x {size[1]} '
                            f'of {sample.image_path}. Predict at the size of the images.')
        sample.set_metainfo(dict(crop_top=0))  # nothing was cut off
        return dict(self.predictions(image, stored, sample), stored=True)

    def predictions(self, image: np.ndarray, where: Path, sample: Any) -> dict[str, Any]:
        """Fields of a sample.

        Args:
            image: (H0, W0) uint8.
            where: its file.
            sample: whose prediction it is.
        """
        raise NotImplementedError(f'{type(self).__name__} has no predictions; write one.')
