"""Predictions for BDD100K: official masks."""
from collections.abc import Sequence
from pathlib import Path

from perception.common.image_submission import check_zip, write_png, write_zip
from perception.common.submission import Submission
from perception.lanes.datasets.base import label_frame
from perception.lanes.datasets.bdd100k.metric import full_classes
from perception.lanes.datasets.bdd100k.reader import BDD100K, check_codes, to_mask
from perception.registry import METRICS


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


def validate_bdd100k(path: str | Path, names: Sequence[str], size: tuple[int, int] = BDD100K.IMAGE_SIZE) -> list[str]:
    """Check a zip of official masks.

    Args:
        path: the zip.
        names: ids of the images.
        size: (rows, columns) of the images.
    """
    codes = {*range(1 << 6), 255}  # six bits carry a meaning; 255 is background, too
    return check_zip(Path(path), [f'{name}.png' for name in names], size, codes)
