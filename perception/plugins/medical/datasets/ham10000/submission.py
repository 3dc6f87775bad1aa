"""The file that ISIC 2018 Task 3 takes; its score is the mean recall of the classes."""
import csv
from collections.abc import Sequence
from pathlib import Path

from perception.plugins.medical.datasets.ham10000.reader import CLASSES
from perception.plugins.medical.submission import TableSubmission
from perception.registry import METRICS


@METRICS.register_module()
class ISICSubmission(TableSubmission):
    """Writes `submission.csv`, `image,MEL,NV,BCC,AKIEC,BKL,DF,VASC` with a confidence in 0..1 of each class.

    Args:
        out_dir: folder of the file.
        collect_device, prefix: as in mmengine.
    """

    HEADER = ('image', *CLASSES)
    upload = 'Submit it at https://challenge.isic-archive.com/landing/2018/47/.'

    def write(self, name: str, sample: dict) -> tuple[str, ...]:
        """Name and confidences."""
        return name, *(f'{score:.8f}' for score in self.need(sample, 'pred_scores').tolist())

    @classmethod
    def check(cls, path: str | Path, ids: Sequence[str] | None = None) -> list[str]:
        """Problems that make the server refuse a file; a column of whole numbers alone is one, see TableSubmission."""
        problems = super().check(path, ids)
        if not problems:
            with open(path, newline='') as file:
                columns = list(zip(*csv.reader(file)))[1:]
            problems = [f'the confidences of {name} are all whole numbers, not written with a point such as 1.0'
                        for name, *column in columns if column and all(value.strip().isdecimal() for value in column)]
        return problems

    @classmethod
    def row_problem(cls, row: Sequence[str]) -> str | None:
        """Confidences are numbers from 0 to 1."""
        try:
            wrong = next((value for value in row if not 0 <= float(value) <= 1 or '_' in value), None)
        except ValueError as error:
            return str(error)
        return None if wrong is None else f'a confidence is {wrong}, not in 0..1'
