"""Predictions for ApolloScape's server: label images of the test road."""
from collections.abc import Sequence
from pathlib import Path

from perception.common.image_submission import check_zip, write_png, write_zip
from perception.common.submission import Submission
from perception.lanes.datasets.apolloscape.reader import (
    MARK_CLASSES,
    NUM_CLASSES,
    TEST_ROAD,
    TRAIN_TO_ID,
    ApolloScapeLaneMark,
)
from perception.lanes.datasets.base import label_frame
from perception.lanes.decode import restore_labels
from perception.registry import METRICS
from perception.utils.errors import DataError


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


def validate_apolloscape(path: str | Path, names: Sequence[str], road: str = TEST_ROAD,
                         size: tuple[int, int] = ApolloScapeLaneMark.IMAGE_SIZE) -> list[str]:
    """Check a zip of label images.

    Args:
        path: the zip.
        names: of the test images, without folder and extension.
        road: of the test images.
        size: (rows, columns) of the images.
    """
    ids = {entry.id for entry in MARK_CLASSES}
    return check_zip(Path(path), [f'test/{road}/{name}.png' for name in names], size, ids)
