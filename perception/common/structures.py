"""What a sample carries beside its input tensors."""
from mmengine.structures import BaseDataElement


class PointSegSample(BaseDataElement):
    """Labels and predictions of one point cloud.

    Data fields, all optional tensors with one row per point in file order:
        labels: (N,) int64 train ids 0..C-1, 255 = ignored.
        pred_labels: (N,) int64 train ids 0..C-1.
        logits: (N, C) float32 class scores, when asked for.

    Meta information: `sample_id` (unique, such as `'08_000700'`), `points_path`, `num_points`.
    """
