"""Submissions: the files that a benchmark's server or official tool reads, written as predictions arrive."""
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from perception.utils.checkpoint import atomic_path
from perception.utils.errors import DataError

# what reading a damaged or encrypted zip can raise
ZIP_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, RuntimeError,
              UnicodeDecodeError, IndexError, OverflowError)


class Submission(BaseMetric):
    """Base of the writers: `write` stores a sample and returns what the end needs to know, `finish` checks the whole.

    It takes the place of a metric and gives no score. Each process writes the files of its own samples; at the end the
    first one writes what holds them all, checks it and logs where it lies.

    Args:
        out_dir: folder for the files.
        collect_device, prefix: as in mmengine.
    """

    default_prefix = ''  # none; spares mmengine's warning
    unit = 'images'  # what a sample is called
    advice = 'Predict the whole test split into an empty folder.'  # what to do about a submission that would be refused
    upload = ''  # where it is to be sent, a sentence

    def __init__(self, out_dir: str | Path, collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.out_dir = Path(out_dir).expanduser()

    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Write the predictions of some samples.

        Args:
            data_batch: not used.
            data_samples: for each a dict with `sample_id` and predictions.

        Raises:
            DataError: predictions are missing or broken, or the folder cannot be written.
        """
        with self._writable():
            self.results.extend(self.write(self.need(sample, 'sample_id'), sample) for sample in data_samples)

    def compute_metrics(self, results: list) -> dict:
        """Finish the submission and check it; of one that would be refused no zip is left that could be sent.

        Raises:
            DataError: it would be refused, or the folder cannot be written.
        """
        with self._writable():
            path, problems = self.finish(results)
        if problems:
            if path.suffix == '.zip':
                path.unlink(missing_ok=True)
            raise DataError(f'{path}: {problems[0]} ({len(problems):,} problem(s)), expected a valid submission. '
                            f'{self.advice}')
        print_log(f'{path}: {len(results):,} {self.unit}, passes the checks. {self.upload}'.rstrip(), 'current')
        return {}

    @contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(f'{error.filename or self.out_dir}: {error.strerror or error}, expected a folder that can '
                            'be written, with room for the submission. Free some space or choose another folder.'
                            ) from error

    def write(self, name: str, sample: dict) -> Any:
        """Store a sample."""
        raise NotImplementedError(f'{type(self).__name__} has no write; write one.')

    def finish(self, results: list) -> tuple[Path, list[str]]:
        """Write what holds all samples; the path of the whole and its problems, a sentence each."""
        raise NotImplementedError(f'{type(self).__name__} has no finish; write one.')

    def need(self, sample: dict, key: str) -> Any:
        """A field of a sample.

        Raises:
            DataError: it is not there.
        """
        if sample.get(key) is None:
            raise DataError(f'{type(self).__name__}: {sample.get("sample_id", "a sample")} has no {key}, expected it. '
                            'Use a model, and where it has one a decoder, of this data set.')
        return sample[key]


def zip_files(path: Path, folder: Path, names: Sequence[str]) -> None:
    """Zip files under their names, with an entry for each directory above them, as servers demand.

    Args:
        path: of the zip, which appears when it is complete.
        folder: that the names are relative to.
        names: such as `sequences/11/predictions/000000.label`.

    Raises:
        DataError: it cannot be written.
    """
    with atomic_path(path, DataError) as part, zipfile.ZipFile(part, 'w', zipfile.ZIP_DEFLATED) as archive:
        for directory in parents(names):
            archive.writestr(directory, b'')
        for name in names:
            archive.write(folder / name, name)


def parents(names: Sequence[str]) -> list[str]:
    """The directories above some files, each with a slash at its end, in order."""
    return sorted({f'{parent.as_posix()}/' for name in names for parent in list(Path(name).parents)[:-1]})
