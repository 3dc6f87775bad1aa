"""Features of frozen teachers, computed once and kept as float16 files.

A feature is found by what it was made of: the pixels of its frame (or pair of frames), the teacher's weights and what
the teacher does to frames and features. Whatever changes gives another name, so that an old feature is never met.
"""
import hashlib
import io
import logging
from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import Tensor, nn

from perception.common.dataset import parts
from perception.utils.checkpoint import atomic_path, unwrap
from perception.utils.errors import ConfigError, DataError
from perception.utils.paths import from_root, make_folder


def digest(parts: Iterable[bytes | np.ndarray]) -> str:
    """A name for some bytes that no others have, 32 hexadecimal digits."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(part)
    return found.hexdigest()


def weights_digest(module: nn.Module) -> str:
    """A name for the weights of a module that no others have, wherever they lie."""
    parts: list[bytes | np.ndarray] = []
    for name, value in sorted(module.state_dict().items()):
        array = value.detach().cpu().contiguous()
        parts += [f'{name} {value.dtype} {tuple(value.shape)}'.encode(), array.reshape(-1).view(torch.uint8).numpy()]
    return digest(parts)


def settings_of(module: nn.Module) -> list[tuple]:
    """What parts of a module are set to, such as a size of images: whatever is no weight but a number or a text."""
    plain = bool, int, float, str
    return [(name, key, value) for name, part in module.named_modules() for key, value in sorted(vars(part).items())
            if key != 'training' and not key.startswith('_') and (isinstance(value, plain) or isinstance(
                value, (tuple, list)) and all(isinstance(entry, plain) for entry in value))]


class FeatureCache:
    """The features of one teacher, a file `<root>/<teacher>/<first digits>/<item>.npy` for each item.

    Args:
        root: folder of all teachers, relative to the project.
        teacher: name of the teacher's weights and transforms.
        shapes: of the features of one item, by their names.
        max_gb: what the files of this teacher may take together; those that no longer fit in are not written.
    """

    def __init__(self, root: str | Path, teacher: str, shapes: dict[str, Sequence[int]], max_gb: float) -> None:
        self.folder = from_root(root) / teacher
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.length = sum(map(prod, self.shapes.values()))
        self.head = _head(self.length)
        self.item_bytes = len(self.head) + 2 * self.length
        self.max_bytes, self.full = max_gb * 1e9, False
        self.bytes = sum(file.stat().st_size for file in self.folder.glob('*/*.npy'))

    def _file(self, item: str) -> Path:
        return self.folder / item[:2] / f'{item}.npy'

    def read(self, item: str) -> np.ndarray | None:
        """All features of an item in one row, float16; None where they are not there or the file is damaged."""
        try:
            found = self._file(item).read_bytes()
        except OSError:
            return None
        if len(found) != self.item_bytes or not found.startswith(self.head):
            return None
        row = np.frombuffer(found, np.float16, offset=len(self.head))
        return row if np.isfinite(row).all() else None

    def write(self, item: str, row: np.ndarray) -> np.ndarray:
        """Keep the features of an item; the file appears when it is complete.

        Args:
            item: its name.
            row: all its features, in the order of `shapes`.

        Returns:
            the row as float16, as `read` gives it, so that it is the same whether the item was kept before.

        Raises:
            DataError: the file cannot be written, or a feature is too large for float16.
        """
        with np.errstate(over='ignore'):
            half = row.astype(np.float16)
        if not np.isfinite(half).all():
            raise DataError(f'{self.folder}: a feature of {float(np.abs(row).max()):.3g}, expected numbers up to '
                            "65504, which float16 holds. Train without the cache, or check the teacher's weights.")
        if self.full:
            return half
        if self.bytes + self.item_bytes > self.max_bytes:
            self.full = True
            print_log(f'{self.folder}: {self.bytes / 1e9:.2f} GB of features, at most {self.max_bytes / 1e9:g}. Others '
                      'are computed in every epoch.', 'current', logging.WARNING)
            return half
        file = self._file(item)
        make_folder(file.parent)
        with atomic_path(file, DataError) as part, open(part, 'wb') as opened:
            np.save(opened, half)
        self.bytes += self.item_bytes
        return half

    def split(self, rows: Tensor) -> dict[str, Tensor]:
        """Rows (N, length) as features (N, ...) by their names."""
        parts = rows.split([prod(shape) for shape in self.shapes.values()], 1)
        return {name: part.unflatten(1, shape) for part, (name, shape) in zip(parts, self.shapes.items())}


def _head(length: int) -> bytes:
    """What a file of so many float16 numbers begins with; comparing it is faster than reading it."""
    file = io.BytesIO()
    np.save(file, np.zeros(length, np.float16))
    return file.getvalue()[:-2 * length]


class FeatureCacheHook(Hook):
    """Says how many GB the features of the training data will take before any is written.

    Raises:
        ConfigError: they take more than a teacher may keep.
    """

    def before_train(self, runner: Runner) -> None:
        """Count the frames and compare."""
        frames = sum(int(data.offsets[-1]) if hasattr(data, 'offsets') else len(data)
                     for _, data in parts(runner.train_dataloader.dataset))
        for name, teacher in getattr(unwrap(runner.model), 'teachers', {}).items():
            if not getattr(teacher, 'cache_gb', 0):
                continue
            cache = teacher.cache()
            need = frames * cache.item_bytes / 1e9
            runner.logger.info(f'Features of teacher {name}: {frames:,} frames of {cache.item_bytes / 1024:.0f} KiB, '
                               f'{need:.2f} GB in {cache.folder}, {cache.bytes / 1e9:.2f} GB are there, at most '
                               f'{teacher.cache_gb:g} GB.')
            if need > teacher.cache_gb:
                raise ConfigError(f'teacher {name}: {need:.2f} GB of features for {frames:,} frames, expected at most '
                                  f'cache_gb={teacher.cache_gb:g}. Raise it, or set it to 0 to run the teacher in '
                                  'every step.')
