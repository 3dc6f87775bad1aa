"""Predictions for TuSimple: the file that its server takes, written, checked, read again."""
import json
from pathlib import Path
from typing import Any

import numpy as np

from perception.common.formats.text import read_json_lines
from perception.common.results import StoredResults
from perception.lanes.datasets.base import in_image_pixels
from perception.lanes.datasets.tusimple.metric import MAX_MILLISECONDS, Prediction, lane_columns, read_predictions
from perception.lanes.datasets.tusimple.reader import file_rows
from perception.lanes.polylines import DECIMALS, at_rows
from perception.lanes.submission import MAX_PIXEL, LaneSubmission
from perception.registry import METRICS, MODELS
from perception.utils.checkpoint import atomic_path
from perception.utils.errors import DataError

NAME = 'pred.json'


@METRICS.register_module()
class TuSimpleSubmission(LaneSubmission):
    """Writes `pred.json`: an object a line with `raw_file`, `lanes` and `run_time`.

    Args:
        out_dir: folder for the file.
        run_time: milliseconds that a prediction takes; the server refuses more than 200.
        collect_device, prefix: as in mmengine.
    """

    def __init__(self, out_dir: str | Path, run_time: float = 10.0, collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(out_dir, collect_device, prefix)
        self.run_time = run_time

    def write(self, name: str, sample: dict) -> dict:
        rows = file_rows(sample)
        lanes = [np.round(at_rows(lane, rows), DECIMALS).tolist() for lane in self.lanes(sample) if len(lane)]
        suffix = Path(sample.get('image_path') or name).suffix or '.jpg'
        return dict(raw_file=f'{name}{suffix}', lanes=lanes, run_time=sample.get('run_time', self.run_time),
                    h_samples=list(rows))

    def finish(self, results: list) -> tuple[Path, list[str]]:
        path = self.out_dir / NAME
        self.out_dir.mkdir(parents=True, exist_ok=True)
        with atomic_path(path, DataError) as part:
            part.write_text(''.join(f'{json.dumps(record)}\n' for record in results), encoding='ascii')
        return path, validate_tusimple(path, {record['raw_file']: len(record['h_samples']) for record in results})


@MODELS.register_module()
class TuSimpleResults(StoredResults):
    """The lanes of a file of predictions, of anybody, each with its time, which the score looks at.

    Args:
        path: the file, a JSON object a line, or the folder with it that `TuSimpleSubmission` wrote.

    Raises:
        DataError: it cannot be read, or something is wrong with it; lanes are looked at as they are asked for.
    """

    def read(self, path: Path) -> dict[str, Prediction]:
        path = path / NAME if path.is_dir() else path
        return {name.lstrip('/').rsplit('.', 1)[0]: found for name, found in read_predictions(path).items()}

    def fields(self, stored: Prediction, sample: Any) -> dict[str, Any]:
        rows = np.array(file_rows(sample), np.float64)
        lanes = [np.stack([u, rows], axis=1)[u >= 0][::-1] for u in lane_columns(stored, rows)]
        return dict(pred_lanes=in_image_pixels(lanes, sample), run_time=stored.run_time, stored=True)


def validate_tusimple(path: str | Path, tasks: str | Path | dict[str, int]) -> list[str]:
    """Check a file of predictions.

    Args:
        path: the file, a JSON object a line.
        tasks: `test_tasks_0627.json` or a label file, or raw_file -> number of rows.

    Raises:
        DataError: a file that is missing or no JSON.
    """
    if not isinstance(tasks, dict):
        tasks = dict(_task(*row) for row in read_json_lines(tasks, 'tasks of TuSimple'))
    problems, seen = [], set()
    for where, record in read_json_lines(path, 'predictions for TuSimple'):
        name, lanes, run_time = (record.get(key) for key in ('raw_file', 'lanes', 'run_time'))
        if not isinstance(name, str) or name not in tasks or name in seen:
            problems.append(f'{where}: {"a second" if str(name) in seen else "an unknown"} raw_file {str(name)[:80]!r}')
            continue
        seen.add(name)
        if type(run_time) not in (int, float) or not 0 <= run_time <= MAX_MILLISECONDS:
            problems.append(f'{where}: run_time {str(run_time)[:40]}, expected 0 to {MAX_MILLISECONDS} ms')
        if not isinstance(lanes, list) or not all(isinstance(lane, list) for lane in lanes):
            problems.append(f'{where}: lanes {str(lanes)[:40]}, expected a list of lists')
            continue
        for lane in lanes:
            if len(lane) != tasks[name]:
                problems.append(f'{where}: a lane of {len(lane)} numbers for {tasks[name]} h_samples')
            elif not all(type(u) in (int, float) and abs(u) < MAX_PIXEL for u in lane):
                problems.append(f'{where}: a lane {str(lane)[:40]}, expected pixels')
    missing = [name for name in tasks if name not in seen]
    if missing:
        problems.append(f'{path}: {len(missing):,} images are missing, such as {missing[0]}')
    return problems


def _task(where: str, record: dict) -> tuple[str, int]:
    name, rows = record.get('raw_file'), record.get('h_samples')
    if not isinstance(name, str) or not isinstance(rows, list):
        raise DataError(f'{where}: raw_file {str(name)[:60]!r} with h_samples {str(rows)[:40]}, expected a name and a '
                        'list. It is no file of tasks of TuSimple; correct it, or take the official one.')
    return name, len(rows)
