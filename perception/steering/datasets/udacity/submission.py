"""Answers for Udacity's challenge 2: one CSV file, written, validated, and read again as predictions.

    frame_id,steering_angle
    1479425441182877835,-0.016928

A row for each frame of the test, by its time stamp without ending; the angle of the wheel in radians, positive to the
left.
"""
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from perception.common.results import StoredResults
from perception.common.submission import Submission
from perception.registry import METRICS, MODELS
from perception.steering.datasets.udacity.reader import LARGEST, read_cells
from perception.steering.metrics import array_of
from perception.utils.checkpoint import atomic_path
from perception.utils.errors import DataError

NAME, HEADER = 'submission.csv', ('frame_id', 'steering_angle')
_SHOWN = 5  # frames of one kind that are listed


@METRICS.register_module()
class UdacitySubmission(Submission):
    """Writes `submission.csv` with an answer for each scored frame; arguments as of Submission."""

    unit = 'clips'
    advice = 'Predict the whole test split once.'

    def write(self, name: str, sample: dict) -> list[tuple[str, float]]:
        rows = array_of(sample, 'scored', type(self).__name__).astype(bool)
        angles = np.radians(array_of(sample, 'pred_targets', type(self).__name__)[:, 0].astype(np.float64))
        if len(angles) != len(rows):
            raise DataError(f'UdacitySubmission: {name} has {len(angles)} predictions for {len(rows)} frames, expected '
                            'equal numbers. Use a net that predicts each frame.')
        return [(frame, angle) for frame, angle, scored in zip(sample['frames'], angles.tolist(), rows) if scored]

    def finish(self, results: list) -> tuple[Path, list[str]]:
        answers = sorted((row for clip in results for row in clip), key=lambda row: int(row[0]))
        path, count = self.out_dir / NAME, (self.dataset_meta or {}).get('num_frames', len(answers))
        self.out_dir.mkdir(parents=True, exist_ok=True)
        with atomic_path(path, DataError) as part:
            part.write_text(''.join(f'{a},{b}\n' for a, b in [HEADER, *((f, f'{x:.9f}') for f, x in answers)]), 'ascii')
        problems = validate_submission(path, [frame for frame, _ in answers])
        return path, [f'{len(answers):,} frames, expected {count:,}'] * (len(answers) != count) + problems


def validate_submission(path: str | Path, frames: Iterable[str] | None = None) -> list[str]:
    """Find what is wrong with a file of answers: header, columns, frames, numbers.

    Args:
        path: the file.
        frames: time stamps of all frames of the test, where they are known.

    Returns:
        a sentence for each problem.

    Raises:
        DataError: no such file, or no text.
    """
    cells = read_cells(path, 'answers, frame_id and steering_angle')
    problems, found = [], []
    if cells[0][1] == [*HEADER]:
        cells = cells[1:]
    else:
        problems.append(f'the first row is {",".join(cells[0][1])[:60]!r}, expected {",".join(HEADER)}')
    for where, row in cells:
        number = where.rpartition(':')[2]
        if len(row) != 2:
            problems.append(f'row {number} has {len(row)} columns, expected 2')
            continue
        if not (row[0].isascii() and row[0].isdecimal()):
            problems.append(f'row {number}: {row[0][:40]!r} is no time stamp in nanoseconds')
        try:
            angle = float(row[1])
        except ValueError:
            angle = np.nan
        if not abs(angle) < LARGEST:
            problems.append(f'row {number}: {row[1][:40]!r} is no angle in radians')
        found.append(row[0])
    kinds = {'there twice': {frame for frame in found if found.count(frame) > 1} if len(set(found)) < len(found)
             else set()}
    if frames is not None:
        kinds |= dict(missing=set(frames) - set(found), unknown=set(found) - set(frames))
    for kind, names in kinds.items():
        problems += [f'frame {name} is {kind}' for name in sorted(names)[:_SHOWN]]
        problems += [f'{len(names) - _SHOWN:,} more frames are {kind}'] * (len(names) > _SHOWN)
    return problems


@MODELS.register_module()
class UdacityResults(StoredResults):
    """The answers of a file as the predictions of a test; torque and speed are not known.

    Args:
        path: the file, of anybody.

    Raises:
        DataError: it cannot be read, or something is wrong with it.
    """

    def read(self, path: Path) -> dict[str, float]:
        """Frame -> angle [rad]."""
        problems = validate_submission(path)
        if problems:
            raise DataError(f'{path}: {problems[0]} ({len(problems):,} problem(s)), expected valid answers. Correct '
                            'the file.')
        return {row[0]: float(row[1]) for _, row in read_cells(path, 'answers')[1:]}

    def check(self, num_samples: int) -> None:
        """Nothing to compare: answers are counted in frames, samples in clips; a frame without one is said later."""

    @torch.no_grad()
    def test_step(self, data: dict) -> list:
        """Hand out answers.

        Args:
            data: with `data_samples`.

        Raises:
            DataError: the file has none for a frame.
        """
        for sample in data['data_samples']:
            absent = [frame for frame in sample.frames if frame not in self.results]
            if absent:
                raise DataError(f'{self.path}: no answer for frame {absent[0]}, expected one for each frame of the '
                                'tested split. Predict all of it, or test the split that the file belongs to.')
            found = torch.full((len(sample.frames), 3), torch.nan, dtype=torch.float64)
            found[:, 0] = torch.rad2deg(torch.tensor([self.results[f] for f in sample.frames], dtype=torch.float64))
            sample.pred_targets = found
        return data['data_samples']
