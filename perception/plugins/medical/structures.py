"""What a sample carries beside its image."""
from mmengine.structures import BaseDataElement


class ClassSample(BaseDataElement):
    """Class and prediction of one image, K classes.

    Data fields, all optional:
        label: () int64, 0..K-1.
        pred_label: () int64.
        pred_scores: (K,) float32, softmax of the net.
        feature: (D,) float32, the last features of the net.

    Meta information: `sample_id` (name of the image without its ending), `image_path`, `index` (row of the sample in
    its data set) and `original_shape` (H0, W0).
    """
