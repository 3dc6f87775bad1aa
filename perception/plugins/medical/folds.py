"""Folds for cross-validation: stratified by class as the published code makes them, or by class without a lesion that
stands in two of them, or read from files.

The stratified ones are those of scikit-learn's `StratifiedKFold(5, shuffle=True, random_state=2020)`, which depend on
the order of the samples: that of the official file.
"""
import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from perception.common.formats.text import read_text
from perception.utils.errors import ConfigError, DataError

COUNT, SEED = 5, 2020


def stratified_folds(labels: np.ndarray, count: int = COUNT, seed: int = SEED) -> np.ndarray:
    """The fold in which each sample is held out, with equal shares of each class.

    Args:
        labels: (n,) classes.
        count: folds.
        seed: same seed, same folds.

    Returns:
        (n,) int64, 0..count - 1.

    Raises:
        ConfigError: less than two folds, or no class with a sample for each.
    """
    labels = np.asarray(labels)
    _check(labels, count)
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    encoded = np.unique(first, return_inverse=True)[1][inverse]  # classes numbered as they appear
    ordered, folds = np.sort(encoded), np.empty(len(labels), np.int64)
    shares = np.stack([np.bincount(ordered[i::count], minlength=len(first)) for i in range(count)])
    generator = np.random.RandomState(seed)  # noqa: NPY002 (the published folds are drawn from it)
    for k in range(len(first)):
        fold = np.arange(count).repeat(shares[:, k])
        generator.shuffle(fold)
        folds[encoded == k] = fold
    return folds


def grouped_folds(labels: np.ndarray, groups: Sequence[str], count: int = COUNT, seed: int = SEED) -> np.ndarray:
    """Folds with about equal shares of each class in which no group stands twice, such as a lesion of several images.

    Groups go one after the other, the largest first, to the fold that has least of their classes.

    Args:
        labels: (n,) classes.
        groups: n names.
        count: folds.
        seed: same seed, same folds.

    Returns:
        (n,) int64, 0..count - 1.

    Raises:
        ConfigError: less than two folds, or fewer groups than folds.
    """
    labels = np.asarray(labels)
    _check(labels, count)
    names, inverse = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < count:
        raise ConfigError(f'grouped_folds: {len(names)} groups, expected {count} or more, one for each fold. Take '
                          'stratified folds.')
    counts = np.zeros((len(names), labels.max() + 1))
    np.add.at(counts, (inverse, labels), 1)
    shares = counts / np.maximum(counts.sum(0), 1)  # of each class
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-shares[order].sum(1), kind='stable')]
    filled, chosen = np.zeros((count, counts.shape[1])), np.empty(len(names), np.int64)
    for group in order:
        chosen[group] = np.lexsort((filled.sum(1), np.round(filled @ shares[group], 12)))[0]
        filled[chosen[group]] += shares[group]
    return chosen[inverse]


def read_folds(folder: Path, ids: Sequence[str], count: int = COUNT) -> np.ndarray:
    """Folds of the published code's files, `split{1..5}_train.csv` and `split{1..5}_test.csv`, whose first column is
    the name of an image.

    Args:
        folder: that holds them.
        ids: names of all images.
        count: folds.

    Returns:
        (n,) int64, the fold in which each image is held out.

    Raises:
        DataError: a file that is missing or names unknown images, or folds that overlap or do not cover all images.
    """
    row, folds = {name: i for i, name in enumerate(ids)}, np.full(len(ids), -1)
    for fold in range(count):
        parts = {}
        for part in ('train', 'test'):
            path = folder / f'split{fold + 1}_{part}.csv'
            names = [line[0] for line in read_csv(path)[1]]
            unknown = [name for name in names if name not in row]
            if unknown:
                raise DataError(f'{path}: {len(unknown):,} images that the data set does not have ({unknown[0]}), '
                                'expected some of its own. Use the folds of this data set.')
            parts[part] = {row[name] for name in names}
        both = parts['train'] & parts['test']
        twice = [i for i in parts['test'] if folds[i] >= 0]
        if both or twice:
            name, what = (ids[min(both)], 'trained and tested with') if both else (ids[twice[0]], 'tested twice')
            raise DataError(f'{folder}: in fold {fold + 1} {len(both) or len(twice):,} images are {what} ({name}), '
                            'expected folds that do not overlap. Correct the files.')
        if len(parts['train']) + len(parts['test']) != len(ids):
            raise DataError(f'{folder}: fold {fold + 1} has {len(parts["train"]) + len(parts["test"]):,} of '
                            f'{len(ids):,} images, expected all of them. Correct the files.')
        folds[list(parts['test'])] = fold
    if (folds < 0).any():
        raise DataError(f'{folder}: {(folds < 0).sum():,} images are never tested ({ids[int((folds < 0).argmax())]}), '
                        'expected each in one fold. Correct the files.')
    return folds


def read_csv(path: Path, columns: Sequence[str] | None = None) -> tuple[list[str], list[list[str]]]:
    """Names of the columns of a CSV file, in which tabs part the values of a `.tab`, and the rows below.

    Args:
        path: the file.
        columns: those that are read, wherever they stand in the file; None for all.

    Raises:
        DataError: no such file, no text, a column that is missing or comes twice, or a row of another length.
    """
    table = csv.reader(io.StringIO(read_text(path, 'a table of images')), delimiter=',\t'[path.suffix == '.tab'])
    try:
        rows = [[value.strip() for value in row] for row in table if row]
    except csv.Error as error:
        raise DataError(f'{path}: no table ({error}), expected values with commas between them. The file is damaged; '
                        'unpack it again.') from error
    if not rows or any(rows[0].count(name) != 1 for name in columns or ()):
        came = 'nothing' if not rows else f'the columns {",".join(rows[0])[:100]!r}'
        raise DataError(f'{path}: {came}, expected {",".join(columns or ["a header"])!r}. Unpack the official file '
                        'again.')
    wrong = next((i for i, row in enumerate(rows[1:], 2) if len(row) != len(rows[0])), None)
    if wrong:
        raise DataError(f'{path}:{wrong}: {len(rows[wrong - 1])} values, expected {len(rows[0])}. The file is damaged; '
                        'unpack it again.')
    places = [rows[0].index(name) for name in columns or rows[0]]
    header, *rows = ([row[i] for i in places] for row in rows)
    return header, rows


def _check(labels: np.ndarray, count: int) -> None:
    if count < 2 or not len(labels) or np.bincount(labels).max() < count:
        raise ConfigError(f'folds: {len(labels)} samples for {count} folds, expected 2 folds or more and a class with '
                          'a sample for each. Give fewer folds or more samples.')
