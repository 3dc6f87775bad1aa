"""Submissions of images: PNG files, zips of them, and checks of both.

`validate_...` beside each writer makes the same check later, on files of any origin: a sentence for each problem, an
empty list when there is none.
"""
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from perception.common.formats.images import decode_header, decode_label_image, read_label_image
from perception.common.submission import ZIP_DAMAGE
from perception.utils.checkpoint import atomic_path
from perception.utils.errors import DataError

ZIP_NAME = 'submission.zip'
MAX_FACTOR = 8  # bytes of a stored image for each of its pixels
_SHOWN = 5  # problems of one kind that are listed


def write_png(path: Path, image: np.ndarray) -> None:
    """Write an image, (H, W) or (H, W, 3) uint8, as PNG; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path, DataError) as part:
        part.write_bytes(cv2.imencode('.png', image)[1].tobytes())


def write_zip(out_dir: Path, names: Sequence[str]) -> Path:
    """Write the zip of some files.

    Args:
        out_dir: their folder, where the zip is put.
        names: of the files, below the folder.

    Returns:
        path of the zip.
    """
    path = out_dir / ZIP_NAME
    path.unlink(missing_ok=True)
    with atomic_path(path, DataError) as part, zipfile.ZipFile(part, 'w', zipfile.ZIP_STORED) as archive:
        for name in names:
            archive.write(out_dir / name, name)
    return path


def check_files(folder: Path, names: Sequence[str], pattern: str,
                check: Callable[[Path], str | None]) -> list[str]:
    """Missing and superfluous files of a folder, and what `check(path)` finds in each."""
    present = {path.relative_to(folder).as_posix() for path in folder.rglob(pattern) if not path.name.startswith('.')}
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


def size_problem(path: Path, size: tuple[int, int]) -> str | None:
    """What is wrong with a label image that should have so many rows and columns."""
    shape = read_label_image(path).shape
    return f'{shape[0]} x {shape[1]} pixels, expected {size[0]} x {size[1]}' if shape != tuple(size) else None


def check_zip(path: Path, names: Sequence[str], size: tuple[int, int], values: set[int]) -> list[str]:
    """What is wrong with a zip of label images: names, sizes, depth, values.

    Raises:
        DataError: no such file.
    """
    if not path.is_file():
        raise DataError(f'{path}: no such file, expected the zip of a submission. Check the path.')
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist() if not entry.is_dir()}
            problems = _name_problems(set(names), set(entries), path)
            counts = Counter(entry.filename for entry in archive.infolist())
            problems += [f'{name} is there {count} times' for name, count in counts.items() if count > 1][:_SHOWN]
            for name in sorted(set(entries) & set(names)):
                too_large = entries[name].file_size > MAX_FACTOR * size[0] * size[1]
                problem = (f'{entries[name].file_size:,} bytes, far more than such an image has' if too_large else
                           _image_problem(archive.read(name), name, size, values))
                problems += [f'{name}: {problem}'] * bool(problem)
    except ZIP_DAMAGE as error:
        return [f'{path.name} is no readable zip file ({error})']
    return problems


def _image_problem(data: bytes, name: str, size: tuple[int, int], values: set[int]) -> str | None:
    try:
        header = decode_header(data, name)
        if header.size != tuple(size) or header.mode != 'L':
            return (f'{header.size[0]} x {header.size[1]} pixels of mode {header.mode}, expected one channel of 8 '
                    f'bits, {size[0]} x {size[1]}')
        image = decode_label_image(data, name)
    except DataError as error:
        return str(error).removeprefix(f'{name}: ')
    unknown = set(np.flatnonzero(np.bincount(image.ravel(), minlength=256)).tolist()) - values
    return f'values {sorted(unknown)[:8]}, expected ids of the data set' if unknown else None
