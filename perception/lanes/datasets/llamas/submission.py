"""Predictions for the three tasks of LLAMAS, written, checked, read again."""
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perception.common.formats.images import read_label_image
from perception.common.formats.text import read_json
from perception.common.image_submission import check_files, size_problem, write_png
from perception.common.results import StoredResults
from perception.lanes.datasets.base import in_image_pixels, label_frame
from perception.lanes.datasets.culane.reader import read_lanes
from perception.lanes.datasets.culane.submission import lane_problem, write_lanes
from perception.lanes.datasets.llamas.metric import FIRST_ROW, PARTS, lane_columns, to_grey
from perception.lanes.datasets.llamas.reader import SIZE, SLOTS
from perception.lanes.polylines import DECIMALS
from perception.lanes.submission import MAX_PIXEL, LaneSubmission
from perception.registry import METRICS, MODELS
from perception.utils.checkpoint import atomic_path
from perception.utils.errors import DataError
from perception.utils.paths import walk


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


@MODELS.register_module()
class LLAMASResults(StoredResults):
    """The predictions of a folder, of anybody, for those of the three tasks that it has files of: `.lines.txt` (F1),
    `regression.json`, `.json_<class>.png` (segmentation), called by recording and stamp, in any folders below it.

    Args:
        path: the folder, or a `regression.json` alone.

    Raises:
        DataError: nothing of that there, or something that cannot be read.
    """

    def read(self, path: Path) -> dict[str, dict[str, Any]]:
        """Sample -> task -> file, columns, or image of each class."""
        found: dict[str, dict[str, Any]] = defaultdict(dict)
        for file in walk(path, '.lines.txt'):
            found[f'{file.parent.name}/{file.name.removesuffix(".lines.txt")}']['f1'] = file
        for file in walk(path, '.png'):
            stamp, _, number = file.stem.rpartition('.json_')
            if stamp:
                found[f'{file.parent.name}/{stamp}'].setdefault('segmentation', {})[number] = file
        regression = path / 'regression.json' if path.is_dir() else path
        if regression.is_file():
            for name, lanes in read_json(regression, 'the regression of LLAMAS').items():
                found[name.removesuffix('.json')]['regression'] = _columns(lanes, f'{regression}: {name}')
        if not found:
            raise DataError(f'{path}: no predictions, expected a folder with <recording>/<stamp>.lines.txt, '
                            'regression.json or <recording>/<stamp>.json_<class>.png. Check the path.')
        self.parts = tuple(part for part in PARTS if any(part in stored for stored in found.values()))
        return found

    def fields(self, stored: dict[str, Any], sample: Any) -> dict[str, Any]:
        absent = [part for part in self.parts if part not in stored]
        if absent:
            raise DataError(f'{self.path}: nothing for {absent[0]} of {sample.sample_id}, expected it of each image '
                            f'where there is some. Predict the whole split, or name a folder without {absent[0]}.')
        fields: dict[str, Any] = dict(stored=self.parts)
        if 'segmentation' in self.parts:
            fields['pred_grey'] = np.stack([self._grey(stored['segmentation'], number, sample.sample_id)
                                            for number in range(len(SLOTS) + 1)])
        if 'regression' in self.parts:
            fields['pred_columns'] = stored['regression']
            rows = np.arange(FIRST_ROW, SIZE[0])
            lanes = [np.stack([u, rows], 1)[::-1] for u in stored['regression']]
        if 'f1' in self.parts:
            lanes = read_lanes(stored['f1'])
        return dict(fields, pred_lanes=in_image_pixels(lanes, sample)) if self.parts != ('segmentation',) else fields

    def _grey(self, files: dict[str, Path], number: int, name: str) -> np.ndarray:
        """(717, 1276) uint8 of a class."""
        path = files.get(str(number))
        if path is None:
            raise DataError(f'{self.path}: no {name}.json_{number}.png, expected one of each class, 0 (background) to '
                            f'{len(SLOTS)}. Write them all.')
        grey = read_label_image(path)
        if grey.shape != SIZE:
            raise DataError(f'{path}: {grey.shape[0]} x {grey.shape[1]} pixels, expected {SIZE[0]} x {SIZE[1]}. '
                            'Predict at the size of the images.')
        return grey


def _columns(lanes: object, where: str) -> np.ndarray:
    """(4, 417) columns of the four lanes in the rows that are scored."""
    values = [lanes.get(slot) if isinstance(lanes, dict) else None for slot in SLOTS]
    wrong = [slot for slot, one in zip(SLOTS, values) if _column_problem(one)]
    if wrong:
        raise DataError(f'{where}: {wrong[0]} is no list of {SIZE[0]} or {SIZE[0] - FIRST_ROW} pixels, expected such '
                        f'a list of each of {", ".join(SLOTS)}. Correct the file.')
    return np.array([one[FIRST_ROW - SIZE[0]:] for one in values], np.float64)


def _column_problem(values: object) -> bool:
    """Whether something is no list of the columns of a lane."""
    return not isinstance(values, list) or len(values) not in (SIZE[0], SIZE[0] - FIRST_ROW) or not all(
        type(u) in (int, float) and abs(u) < MAX_PIXEL for u in values)


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
            if _column_problem(lanes.get(slot) if isinstance(lanes, dict) else None):
                problems.append(f'regression.json: {slot} of {name} is no list of {rows} or {rows - FIRST_ROW} pixels')
    if segmentation:
        files = [f'{name}.json_{k}.png' for name in names for k in range(len(SLOTS) + 1)]
        problems += check_files(folder / 'segmentation', files, '*.png', lambda path: size_problem(path, SIZE))
    return problems
