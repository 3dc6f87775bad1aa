"""Predictions for ApolloScape's server: label images of the test road, written, checked, read again."""
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perception.common.image_submission import check_zip, write_png, write_zip
from perception.common.submission import Submission
from perception.lanes.datasets.apolloscape.reader import (
    MARK_CLASSES,
    NUM_CLASSES,
    TEST_ROAD,
    TRAIN_TO_ID,
    ApolloScapeLaneMark,
    train_ids,
)
from perception.lanes.datasets.base import label_frame
from perception.lanes.decode import restore_labels
from perception.lanes.submission import StoredImages
from perception.registry import METRICS, MODELS
from perception.utils.errors import DataError

IDS = {entry.id for entry in MARK_CLASSES}


@METRICS.register_module()
class ApolloScapeSubmission(Submission):
    """Writes `test/<road>/<image>.png` with the official ids at the original size, and the zip of them."""

    def write(self, name: str, sample: dict) -> str:
        self.need(sample, 'original_shape')
        labels = restore_labels(self.need(sample, 'pred_labels'), *label_frame(sample)).cpu().numpy()
        if labels.max() >= NUM_CLASSES:
            raise DataError(f'ApolloScapeSubmission: class {labels.max()} in the prediction for {name}, expected '
                            f'0..{NUM_CLASSES - 1}. Use a network with the classes of this data set.')
        path = f'test/{TEST_ROAD}/{Path(name).name}.png'
        write_png(self.out_dir / path, TRAIN_TO_ID[labels])
        return path

    def finish(self, results: list) -> tuple[Path, list[str]]:
        path = write_zip(self.out_dir, results)
        return path, validate_apolloscape(path, [Path(name).stem for name in results])


@MODELS.register_module()
class ApolloScapeResults(StoredImages):
    """The predictions of a folder of `<image>.png` with the official ids, of anybody.

    Args:
        path: the folder.

    Raises:
        DataError: see StoredImages; a number that is no id.
    """

    def predictions(self, image: np.ndarray, where: Path, sample: Any) -> dict[str, Any]:
        unknown = sorted(set(np.unique(image).tolist()) - IDS)
        if unknown:
            raise DataError(f'{where}: values {unknown[:8]}, expected the official ids, 0 and 200 to 255. Classes of a '
                            'net, 0..36, become ids by TRAIN_TO_ID of perception/lanes/datasets/apolloscape/reader.py.')
        return dict(pred_labels=torch.from_numpy(train_ids(image, where)))


def validate_apolloscape(path: str | Path, names: Sequence[str], road: str = TEST_ROAD,
                         size: tuple[int, int] = ApolloScapeLaneMark.IMAGE_SIZE) -> list[str]:
    """Check a zip of label images.

    Args:
        path: the zip.
        names: of the test images, without folder and extension.
        road: of the test images.
        size: (rows, columns) of the images.
    """
    return check_zip(Path(path), [f'test/{road}/{name}.png' for name in names], size, IDS)
