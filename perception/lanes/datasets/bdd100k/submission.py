"""Predictions for BDD100K: official masks, written, checked, read again."""
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perception.common.image_submission import check_zip, write_png, write_zip
from perception.common.submission import Submission
from perception.lanes.datasets.base import label_frame
from perception.lanes.datasets.bdd100k.metric import full_classes
from perception.lanes.datasets.bdd100k.reader import BACKGROUND_BIT, BDD100K, check_codes, mask_labels, to_mask
from perception.lanes.submission import StoredImages
from perception.registry import METRICS, MODELS
from perception.utils.errors import DataError


@METRICS.register_module()
class BDD100KSubmission(Submission):
    """Writes `<id>.png`, the official 8-bit masks with lines one pixel wide, and the zip of them.

    Args:
        out_dir: folder for the files.
        codes: byte of each class of the network from 1 on, see `BDD100KOfficialMetric`.
        collect_device, prefix: as in mmengine.
    """

    def __init__(self, out_dir: str | Path, codes: Sequence[int] = (6,), collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(out_dir, collect_device, prefix)
        self.codes = check_codes('BDD100KSubmission', codes)

    def write(self, name: str, sample: dict) -> str:
        self.need(sample, 'original_shape')
        shape, crop_top = label_frame(sample)
        classes = full_classes(dict(sample, crop_top=crop_top), shape, 'BDD100KSubmission').cpu().numpy()
        path = f'{Path(name).name}.png'
        write_png(self.out_dir / path, to_mask(classes, self.codes))
        return path

    def finish(self, results: list) -> tuple[Path, list[str]]:
        path = write_zip(self.out_dir, results)
        return path, validate_bdd100k(path, [Path(name).stem for name in results])


@MODELS.register_module()
class BDD100KResults(StoredImages):
    """The predictions of a folder of `<id>.png`, of anybody.

    SAD's protocol takes images of lanes, 0 and another number, or official masks, in which all that is no background is
    lane; the official protocol takes official masks. What most pixels have is background, which tells both apart.

    Args:
        path: the folder.

    Raises:
        DataError: see StoredImages; an image that is neither.
    """

    def predictions(self, image: np.ndarray, where: Path, sample: Any) -> dict[str, Any]:
        task, counts = sample.get('masks'), np.bincount(image.ravel(), minlength=256)
        common, numbers = int(counts.argmax()), np.flatnonzero(counts)
        is_mask = bool(common & BACKGROUND_BIT)
        if not is_mask and (task or common or len(numbers) > 2):
            raise DataError(f'{where}: most pixels are {common}, others {numbers[numbers != common].tolist()[:8]}, '
                            f'expected an official mask with background {BACKGROUND_BIT} or 255'
                            f'{"" if task else ", or 0 and one other number on lanes"}. Convert it.')
        if task:
            return dict(pred_mask=image, pred_labels=torch.from_numpy(mask_labels(image, task)))
        lanes = mask_labels(image, 'category') if is_mask else image
        return dict(pred_labels=torch.from_numpy((lanes > 0).astype(np.uint8)))


def validate_bdd100k(path: str | Path, names: Sequence[str], size: tuple[int, int] = BDD100K.IMAGE_SIZE) -> list[str]:
    """Check a zip of official masks.

    Args:
        path: the zip.
        names: ids of the images.
        size: (rows, columns) of the images.
    """
    codes = {*range(1 << 6), 255}  # six bits carry a meaning; 255 is background, too
    return check_zip(Path(path), [f'{name}.png' for name in names], size, codes)
