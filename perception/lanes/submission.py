"""Submissions: the files that each benchmark's server or official tool reads, written as predictions arrive.

Each class takes the place of a metric and gives no score. Each process writes the files of its own images; at the end
the first one writes what holds all images, checks the whole and logs where it lies. `validate_...` does the same check
later, on files of any origin: a sentence for each problem, an empty list when there is none.
"""
import json
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from perception.common.formats.images import read_label_image
from perception.common.formats.text import read_json, read_json_lines
from perception.lanes.datasets.apolloscape import reader as apolloscape
from perception.lanes.datasets.bdd100k.metric import full_classes, to_mask
from perception.lanes.datasets.culane.metric import DECIMALS, quantise, read_lanes
from perception.lanes.datasets.llamas import reader as llamas
from perception.lanes.datasets.llamas.metric import FIRST_ROW, lane_columns, to_grey
from perception.lanes.datasets.tusimple.metric import MAX_MILLISECONDS, ROWS, at_rows
from perception.lanes.decode import restore_labels
from perception.registry import METRICS
from perception.utils.checkpoint import atomic_path
from perception.utils.errors import DataError

MAX_PIXEL = 1e5  # of a coordinate that can be meant
ZIP_NAME = 'submission.zip'
_SHOWN = 5  # problems of one kind that are listed


class Submission(BaseMetric):
    """Base of the writers: `write` stores an image and returns what the end needs to know, `finish` checks the whole.

    Args:
        out_dir: folder for the files.
        collect_device, prefix: as in mmengine.
    """

    default_prefix = ''  # none; spares mmengine's warning

    def __init__(self, out_dir: str | Path, collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.out_dir = Path(out_dir).expanduser()

    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Write the predictions of some images.

        Args:
            data_batch: not used.
            data_samples: for each image a dict with `sample_id` and predictions.

        Raises:
            DataError: predictions are missing or broken, or the folder cannot be written.
        """
        with self._writable():
            self.results.extend(self.write(self.need(sample, 'sample_id'), sample) for sample in data_samples)

    def compute_metrics(self, results: list) -> dict:
        """Finish the submission and check it.

        Raises:
            DataError: it would be refused, or the folder cannot be written.
        """
        with self._writable():
            path, problems = self.finish(results)
        if problems:
            raise DataError(f'{path}: {problems[0]} ({len(problems):,} problem(s)), expected a valid submission. '
                            f'Predict the whole test split.')
        print_log(f'{path}: {len(results):,} images, passes the checks.', 'current')
        return {}

    @contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(f'{error.filename or self.out_dir}: {error.strerror or error}, expected a folder that can '
                            'be written, with room for the submission. Free some space or choose another folder.'
                            ) from error

    def write(self, name: str, sample: dict) -> object:
        """Store an image."""
        raise NotImplementedError(f'{type(self).__name__} has no write; write one.')

    def finish(self, results: list) -> tuple[Path, list[str]]:
        """Write what holds all images; the path of the whole and its problems."""
        raise NotImplementedError(f'{type(self).__name__} has no finish; write one.')

    def need(self, sample: dict, key: str):
        """A field of a sample."""
        if sample.get(key) is None:
            raise DataError(f'{type(self).__name__}: {sample.get("sample_id", "an image")} has no {key}, expected it. '
                            f'Use a network, and where lanes are asked for a decoder, of this data set.')
        return sample[key]

    def lanes(self, sample: dict) -> list[np.ndarray]:
        """The predicted lanes, rounded as text files hold them."""
        where = f'{type(self).__name__}: {sample["sample_id"]}'
        return [quantise(lane, where) for lane in self.need(sample, 'pred_lanes')]


# ------------------------------------------------------------------------------------------------------------- CULane

@METRICS.register_module()
class CULaneSubmission(Submission):
    """Writes `<sample_id>.lines.txt` as the original tool reads them; there is no server, it is run at home."""

    def write(self, name: str, sample: dict) -> str:
        write_lanes(self.out_dir / f'{name}.lines.txt', self.lanes(sample))
        return name

    def finish(self, results: list) -> tuple[Path, list[str]]:
        return self.out_dir, validate_culane(self.out_dir, results)


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
    return _check_files(Path(pred_dir), [f'{name}.lines.txt' for name in names], '*.lines.txt', _lane_problem)


def _lane_problem(path: Path) -> str | None:
    for number, lane in enumerate(read_lanes(path), 1):
        if len(lane) < 2:
            return f'lane {number} has {len(lane)} points, expected two at least'
        if np.abs(lane).max() > MAX_PIXEL:
            return f'lane {number} has the coordinate {np.abs(lane).max():g}, expected pixels'
    return None


# ----------------------------------------------------------------------------------------------------------- TuSimple

@METRICS.register_module()
class TuSimpleSubmission(Submission):
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
        rows = sample.get('h_samples') or ROWS
        lanes = [np.round(at_rows(lane, rows), DECIMALS).tolist() for lane in self.lanes(sample)]
        return dict(raw_file=f'{name}.jpg', lanes=lanes, run_time=sample.get('run_time', self.run_time),
                    h_samples=list(rows))

    def finish(self, results: list) -> tuple[Path, list[str]]:
        path = self.out_dir / 'pred.json'
        self.out_dir.mkdir(parents=True, exist_ok=True)
        with atomic_path(path, DataError) as part:
            part.write_text(''.join(f'{json.dumps(record)}\n' for record in results), encoding='ascii')
        return path, validate_tusimple(path, {record['raw_file']: len(record['h_samples']) for record in results})


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
                        f'list. Copy the file again.')
    return name, len(rows)


# ------------------------------------------------------------------------------------------------------------- LLAMAS

@METRICS.register_module()
class LLAMASSubmission(Submission):
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
        lanes = self.lanes(sample)
        columns = np.round(lane_columns(lanes, extend=True)[:, FIRST_ROW:], DECIMALS).tolist()
        write_lanes(self.out_dir / 'lanes' / f'{name}.lines.txt', [lane for lane in lanes if len(lane) > 1])
        if self.segmentation:
            grey = to_grey(self.need(sample, 'lane_probs'), llamas.SIZE, sample.get('crop_top', 0))
            for k, image in enumerate(grey):
                _write_png(self.out_dir / 'segmentation' / f'{name}.json_{k}.png', image)
        return name, columns

    def finish(self, results: list) -> tuple[Path, list[str]]:
        record = {f'{name}.json': dict(zip(llamas.SLOTS, columns)) for name, columns in results}
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
    problems = _check_files(folder / 'lanes', [f'{name}.lines.txt' for name in names], '*.lines.txt', _lane_problem)
    record, rows = read_json(folder / 'regression.json', 'the regression of LLAMAS'), llamas.SIZE[0]
    for name in sorted({f'{name}.json' for name in names} ^ set(record)):
        problems.append(f'regression.json: {name} is {"unknown" if name in record else "missing"}')
    for name, lanes in record.items():
        for slot in llamas.SLOTS:
            values = lanes.get(slot) if isinstance(lanes, dict) else None
            if not isinstance(values, list) or len(values) not in (rows, rows - FIRST_ROW) or not all(
                    type(u) in (int, float) and abs(u) < MAX_PIXEL for u in values):
                problems.append(f'regression.json: {slot} of {name} is no list of {rows} or {rows - FIRST_ROW} pixels')
    if segmentation:
        files = [f'{name}.json_{k}.png' for name in names for k in range(len(llamas.SLOTS) + 1)]
        problems += _check_files(folder / 'segmentation', files, '*.png', lambda path: _size_problem(path, llamas.SIZE))
    return problems


# -------------------------------------------------------------------------------------------------------- ApolloScape

@METRICS.register_module()
class ApolloScapeSubmission(Submission):
    """Writes `test/<road>/<image>.png` with the official ids at the original size, and the zip of them."""

    def write(self, name: str, sample: dict) -> str:
        shape = tuple(self.need(sample, 'original_shape'))
        labels = restore_labels(self.need(sample, 'pred_labels'), shape, sample.get('crop_top', 0)).cpu().numpy()
        if labels.max() >= apolloscape.NUM_CLASSES:
            raise DataError(f'ApolloScapeSubmission: class {labels.max()} in the prediction for {name}, expected '
                            f'0..{apolloscape.NUM_CLASSES - 1}. Use a network with the classes of this data set.')
        path = f'test/{apolloscape.TEST_ROAD}/{Path(name).name}.png'
        _write_png(self.out_dir / path, apolloscape.TRAIN_TO_ID[labels])
        return path

    def finish(self, results: list) -> tuple[Path, list[str]]:
        path = _write_zip(self.out_dir, results)
        return path, validate_apolloscape(path, [Path(name).stem for name in results])


def validate_apolloscape(path: str | Path, names: Sequence[str], road: str = apolloscape.TEST_ROAD,
                         size: tuple[int, int] = apolloscape.ApolloScapeLaneMark.IMAGE_SIZE) -> list[str]:
    """Check a zip of label images.

    Args:
        path: the zip.
        names: of the test images, without folder and extension.
        road: of the test images.
        size: (rows, columns) of the images.
    """
    ids = {entry.id for entry in apolloscape.MARK_CLASSES}
    return _check_zip(Path(path), [f'test/{road}/{name}.png' for name in names], size, ids)


# ------------------------------------------------------------------------------------------------------------ BDD100K

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
        self.codes = tuple(codes)

    def write(self, name: str, sample: dict) -> str:
        classes = full_classes(sample, self.need(sample, 'original_shape'), 'BDD100KSubmission').cpu().numpy()
        path = f'{Path(name).name}.png'
        _write_png(self.out_dir / path, to_mask(classes, self.codes))
        return path

    def finish(self, results: list) -> tuple[Path, list[str]]:
        path = _write_zip(self.out_dir, results)
        return path, validate_bdd100k(path, [Path(name).stem for name in results])


def validate_bdd100k(path: str | Path, names: Sequence[str], size: tuple[int, int] = (720, 1280)) -> list[str]:
    """Check a zip of official masks.

    Args:
        path: the zip.
        names: ids of the images.
        size: (rows, columns) of the images.
    """
    codes = {*range(1 << 6), 255}  # six bits carry a meaning; 255 is background, too
    return _check_zip(Path(path), [f'{name}.png' for name in names], size, codes)


# ---------------------------------------------------------------------------------------------------------- all of them

def _write_png(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path, DataError) as part:
        part.write_bytes(cv2.imencode('.png', image)[1].tobytes())


def _write_zip(out_dir: Path, names: Sequence[str]) -> Path:
    path = out_dir / ZIP_NAME
    path.unlink(missing_ok=True)
    with atomic_path(path, DataError) as part, zipfile.ZipFile(part, 'w', zipfile.ZIP_STORED) as archive:
        for name in names:
            archive.write(out_dir / name, name)
    return path


def _check_files(folder: Path, names: Sequence[str], pattern: str, check) -> list[str]:
    """Missing and superfluous files of a folder, and what `check(path)` finds in each."""
    present = {path.relative_to(folder).as_posix() for path in folder.rglob(pattern)}
    problems = _name_problems(set(names), present, folder)
    for name in sorted(present & set(names)):
        try:
            problem = check(folder / name)
        except DataError as error:
            problem = str(error)
        if problem:
            problems.append(f'{name}: {problem}')
    return problems


def _name_problems(names: set[str], present: set[str], where: Path) -> list[str]:
    missing, extra = sorted(names - present), sorted(present - names)
    problems = [f'{name} is missing' for name in missing[:_SHOWN]] + [f'{name} is unknown' for name in extra[:_SHOWN]]
    hidden = max(len(missing) - _SHOWN, 0) + max(len(extra) - _SHOWN, 0)
    return problems + [f'{hidden:,} more files are missing in or unknown to {where}'] * bool(hidden)


def _size_problem(path: Path, size: tuple[int, int]) -> str | None:
    shape = read_label_image(path).shape
    return f'{shape[0]} x {shape[1]} pixels, expected {size[0]} x {size[1]}' if shape != tuple(size) else None


def _check_zip(path: Path, names: Sequence[str], size: tuple[int, int], values: set[int]) -> list[str]:
    """What is wrong with a zip of label images: names, sizes, depth, values."""
    if not path.is_file():
        raise DataError(f'{path}: no such file, expected the zip of a submission. Check the path.')
    try:
        with zipfile.ZipFile(path) as archive:
            present = {name for name in archive.namelist() if not name.endswith('/')}
            problems = _name_problems(set(names), present, path)
            for name in sorted(present & set(names)):
                problem = _image_problem(archive.read(name), size, values)
                problems += [f'{name}: {problem}'] * bool(problem)
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        return [f'{path.name} is no readable zip file ({error})']
    return problems


def _image_problem(data: bytes, size: tuple[int, int], values: set[int]) -> str | None:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if image is None:
        return 'no image'
    if image.ndim != 2 or image.dtype != np.uint8 or image.shape != tuple(size):
        return f'{image.dtype} of shape {image.shape}, expected one channel of 8 bits, {size[0]} x {size[1]}'
    unknown = set(np.flatnonzero(np.bincount(image.ravel(), minlength=256)).tolist()) - values
    return f'values {sorted(unknown)[:8]}, expected ids of the data set' if unknown else None
