"""The file that Kaggle's APTOS 2019 competition takes; its score is the quadratic weighted kappa."""
from collections.abc import Sequence

from perception.plugins.medical.submission import TableSubmission
from perception.registry import METRICS


@METRICS.register_module()
class APTOSSubmission(TableSubmission):
    """Writes `submission.csv`, `id_code,diagnosis` with a grade 0..4 for each image of the test.

    Args:
        out_dir: folder of the file.
        collect_device, prefix: as in mmengine.
    """

    HEADER = ('id_code', 'diagnosis')
    upload = 'Submit it at https://www.kaggle.com/c/aptos2019-blindness-detection.'

    def write(self, name: str, sample: dict) -> tuple[str, int]:
        """Name and grade."""
        return name, int(self.need(sample, 'pred_label'))

    @classmethod
    def row_problem(cls, row: Sequence[str]) -> str | None:
        """Grades are whole numbers from 0 to 4."""
        return None if row[0] in ('0', '1', '2', '3', '4') else f'the diagnosis is {row[0]!r}, not 0..4'
