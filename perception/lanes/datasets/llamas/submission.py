"""Predictions for the three tasks of LLAMAS."""
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from perception.common.formats.text import read_json
from perception.common.image_submission import check_files, size_problem, write_png
from perception.lanes.datasets.base import label_frame
from perception.lanes.datasets.culane.submission import lane_problem, write_lanes
from perception.lanes.datasets.llamas.metric import FIRST_ROW, lane_columns, to_grey
from perception.lanes.datasets.llamas.reader import SIZE, SLOTS
from perception.lanes.polylines import DECIMALS
from perception.lanes.submission import MAX_PIXEL, LaneSubmission
from perception.registry import METRICS
from perception.utils.checkpoint import atomic_path
from perception.utils.errors import DataError


@METRICS.register_module()
class LLAMASSubmission(LaneSubmission):
    """Writes what the three tasks of LLAMAS ask for.

    `lanes/<recording>/<stamp>.lines.txt` for F1, `regression.json` with the column of each lane in each row, and
    `segmentation/<recording>/<stamp>.json_<class>.png` with probabilities times 255.

    Args:
        out_dir: folder for the files.
        segmentation: write the images of probabilities, five for each image.
        collect_device, prefix: as in mmengine.
    """

    def __init__(self, out_dir: str | Path, segmentation: bool = True, collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(out_dir, collect_device, prefix)
        self.segmentation = segmentation

    def write(self, name: str, sample: dict) -> tuple[str, list]:
        size, crop_top = label_frame({'original_shape': SIZE, **sample})
        if size != SIZE:
            raise DataError(f'LLAMASSubmission: {name} has {size[0]} x {size[1]} pixels, expected the shape of the '
                            f'official {SIZE[0]} x {SIZE[1]}, to which rows and columns are scaled. Give the images '
                            'as they are published.')
        lanes = self.lanes(sample)
        columns = np.round(lane_columns(lanes, extend=True)[:, FIRST_ROW:], DECIMALS).tolist()
        write_lanes(self.out_dir / 'lanes' / f'{name}.lines.txt', [lane for lane in lanes if len(lane) > 1])
        if self.segmentation:
            grey = to_grey(self.need(sample, 'lane_probs'), SIZE, crop_top)
            for k, image in enumerate(grey):
                write_png(self.out_dir / 'segmentation' / f'{name}.json_{k}.png', image)
        return name, columns

    def finish(self, results: list) -> tuple[Path, list[str]]:
        record = {f'{name}.json': dict(zip(SLOTS, columns)) for name, columns in results}
        with atomic_path(self.out_dir / 'regression.json', DataError) as part:
            part.write_text(json.dumps(record), encoding='ascii')
        names = [name for name, _ in results]
        return self.out_dir, validate_llamas(self.out_dir, names, self.segmentation)


def validate_llamas(pred_dir: str | Path, names: Sequence[str], segmentation: bool = True) -> list[str]:
    """Check the files of `LLAMASSubmission`.

    Args:
        pred_dir: the folder.
        names: `<recording>/<stamp>` of the images.
        segmentation: look for the images of probabilities.

    Raises:
        DataError: `regression.json` is missing or no JSON.
    """
    folder = Path(pred_dir)
    problems = check_files(folder / 'lanes', [f'{name}.lines.txt' for name in names], '*.lines.txt', lane_problem)
    record, rows = read_json(folder / 'regression.json', 'the regression of LLAMAS'), SIZE[0]
    for name in sorted({f'{name}.json' for name in names} ^ set(record)):
        problems.append(f'regression.json: {name} is {"unknown" if name in record else "missing"}')
    for name, lanes in record.items():
        for slot in SLOTS:
            values = lanes.get(slot) if isinstance(lanes, dict) else None
            if not isinstance(values, list) or len(values) not in (rows, rows - FIRST_ROW) or not all(
                    type(u) in (int, float) and abs(u) < MAX_PIXEL for u in values):
                problems.append(f'regression.json: {slot} of {name} is no list of {rows} or {rows - FIRST_ROW} pixels')
    if segmentation:
        files = [f'{name}.json_{k}.png' for name in names for k in range(len(SLOTS) + 1)]
        problems += check_files(folder / 'segmentation', files, '*.png', lambda path: size_problem(path, SIZE))
    return problems
