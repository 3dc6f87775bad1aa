"""Predictions for CULane: the text files that its original tool reads, written, checked, read again."""
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perception.common.image_submission import check_files
from perception.common.results import StoredFiles
from perception.lanes.datasets.base import in_image_pixels
from perception.lanes.datasets.culane.reader import read_lanes
from perception.lanes.polylines import DECIMALS
from perception.lanes.submission import MAX_PIXEL, LaneSubmission
from perception.registry import METRICS, MODELS
from perception.utils.checkpoint import atomic_path
from perception.utils.errors import DataError


@METRICS.register_module()
class CULaneSubmission(LaneSubmission):
    """Writes `<sample_id>.lines.txt` as the original tool reads them; there is no server, it is run at home."""

    def write(self, name: str, sample: dict) -> str:
        write_lanes(self.out_dir / f'{name}.lines.txt', [lane for lane in self.lanes(sample) if len(lane)])
        return name

    def finish(self, results: list) -> tuple[Path, list[str]]:
        return self.out_dir, validate_culane(self.out_dir, results)


@MODELS.register_module()
class CULaneResults(StoredFiles):
    """The lanes of a folder of `<sample_id>.lines.txt`, of anybody; every line of text is a lane, also an empty one.

    Args:
        path: the folder.

    Raises:
        DataError: see StoredFiles; a damaged file.
    """

    suffix = '.lines.txt'

    def fields(self, stored: Path, sample: Any) -> dict[str, Any]:
        return dict(pred_lanes=in_image_pixels(read_lanes(stored), sample), stored=True)


def write_lanes(path: Path, lanes: Sequence[np.ndarray]) -> None:
    """Write a `.lines.txt` file: a line `u v u v ...` for each lane.

    Args:
        path: the file.
        lanes: (P, 2), see `quantise`.
    """
    lines = [''.join(f'{value:.{DECIMALS}f}'.rstrip('0').rstrip('.') + ' ' for value in lane.ravel()) for lane in lanes]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path, DataError) as part:
        part.write_text(''.join(f'{line}\n' for line in lines), encoding='ascii')


def validate_culane(pred_dir: str | Path, names: Sequence[str]) -> list[str]:
    """Check a folder of `.lines.txt` files.

    Args:
        pred_dir: the folder.
        names: of the images, without extension, such as `read_list` gives with it.
    """
    names = [name.removesuffix('.jpg') for name in names]
    return check_files(Path(pred_dir), [f'{name}.lines.txt' for name in names], '*.lines.txt', lane_problem)


def lane_problem(path: Path) -> str | None:
    """What is wrong with a `.lines.txt` file, None when nothing is."""
    for number, lane in enumerate(read_lanes(path), 1):
        if len(lane) < 2:
            return f'lane {number} has {len(lane)} points, expected two at least'
        if np.abs(lane).max() > MAX_PIXEL:
            return f'lane {number} has the coordinate {np.abs(lane).max():g}, expected pixels'
    return None
