"""What the submissions of the data sets that ask for lanes as points share: rounded lanes."""
import numpy as np

from perception.common.submission import Submission
from perception.lanes.datasets.base import in_label_pixels
from perception.lanes.polylines import quantise

MAX_PIXEL = 1e5  # of a coordinate that can be meant


class LaneSubmission(Submission):
    """Base of the writers whose data sets ask for lanes as points."""

    def lanes(self, sample: dict) -> list[np.ndarray]:
        """The predicted lanes in pixels of the official images, rounded as text files hold them."""
        where = f'{type(self).__name__}: {sample["sample_id"]}'
        return [quantise(lane, where) for lane in in_label_pixels(self.need(sample, 'pred_lanes'), sample)]
