"""Predictions for the server of Cityscapes: label images with official ids."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from perception.common.image_submission import check_zip, write_png, write_zip
from perception.common.submission import Submission
from perception.registry import METRICS
from perception.steering.datasets.cityscapes.metric import NUM_CLASSES, restored
from perception.steering.datasets.cityscapes.reader import SIZE, TRAIN_TO_ID
from perception.steering.metrics import array_of
from perception.utils.errors import DataError


@METRICS.register_module()
class CityscapesSubmission(Submission):
    """Writes `<city>_SSSSSS_FFFFFF_pred_labelIds.png` at the original size, and the zip of them."""

    upload = 'Upload it at https://www.cityscapes-dataset.com/submit/ (pixel-level semantic labeling).'

    def write(self, name: str, sample: dict) -> tuple[str, tuple[int, int]]:
        labels = array_of(sample, 'pred_labels', type(self).__name__)
        if labels.max(initial=0) >= NUM_CLASSES or labels.min(initial=0) < 0:
            raise DataError(f'CityscapesSubmission: class {labels.max()} in the prediction for {name}, expected '
                            f'0..{NUM_CLASSES - 1}. Use a net with the classes of this data set.')
        size, path = tuple(int(n) for n in sample['original_shape']), f'{name}_pred_labelIds.png'
        write_png(self.out_dir / path, TRAIN_TO_ID[restored(labels, size)])
        return path, size

    def finish(self, results: list) -> tuple[Path, list[str]]:
        names = [name for name, _ in results]
        path = write_zip(self.out_dir, names)
        stems = [name.removesuffix('_pred_labelIds.png') for name in names]
        return path, [problem for size in {size for _, size in results}
                      for problem in validate_cityscapes(path, stems, size)]


def validate_cityscapes(path: str | Path, names: Sequence[str], size: tuple[int, int] = SIZE) -> list[str]:
    """Check a zip of label images.

    Args:
        path: the zip.
        names: of the test images, such as `berlin_000000_000019`.
        size: (rows, columns) of the images.

    Returns:
        a sentence for each problem.
    """
    return check_zip(Path(path), [f'{name}_pred_labelIds.png' for name in names], size,
                     set(np.asarray(TRAIN_TO_ID).tolist()))
