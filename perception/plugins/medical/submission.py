"""What the submissions of classifiers have in common: one CSV file, a row for each image of the test."""
import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from perception.common.submission import Submission
from perception.utils.checkpoint import atomic_path
from perception.utils.errors import DataError


class TableSubmission(Submission):
    """Base of the writers; one sets `HEADER` and writes `write` and `row_problem`."""

    HEADER: tuple[str, ...] = ()

    def finish(self, results: list) -> tuple[Path, list[str]]:
        """Write the table in the order of the data set, and check it."""
        self.out_dir.mkdir(parents=True, exist_ok=True)
        path = self.out_dir / 'submission.csv'
        with atomic_path(path, DataError) as part, open(part, 'w', newline='') as file:
            writer = csv.writer(file, lineterminator='\n')
            writer.writerow(self.HEADER)
            writer.writerows(results)
        return path, self.check(path, (self.dataset_meta or {}).get('sample_ids'))

    @classmethod
    def row_problem(cls, row: Sequence[str]) -> str | None:
        """What is wrong with the values behind the name of an image, None where nothing is."""
        raise NotImplementedError(f'{cls.__name__} has no row_problem; write one.')

    @classmethod
    def check(cls, path: str | Path, ids: Sequence[str] | None = None) -> list[str]:
        """Problems that make a server refuse a file, a sentence each.

        Args:
            path: the file.
            ids: names of the images of the test, None where they are not known.
        """
        path = Path(path)
        try:
            rows = list(csv.reader(io.StringIO(path.read_text())))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            return [f'the file cannot be read ({error})']
        header = list(cls.HEADER)
        if not rows or rows[0] != header:
            return [f'the header is {",".join(rows[0])[:100] if rows else "not there"}, not {",".join(header)}']
        problems, names = [], [row[0] if row else '' for row in rows[1:]]
        for number, row in enumerate(rows[1:], 2):
            problem = f'{len(row)} values, not {len(header)}' if len(row) != len(header) else cls.row_problem(row[1:])
            if problem:
                problems.append(f'line {number}: {problem}')
        problems += [f'{name} comes {count} times' for name, count in Counter(names).items() if count > 1]
        if ids is not None:
            there, wanted = set(names), set(ids)
            problems += [f'{name} is missing' for name in ids if name not in there]
            problems += [f'{name} is no image of the test' for name in names if name not in wanted]
        return problems
