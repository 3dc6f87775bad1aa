"""Damaged files of every format: each outcome is a sample of the right shape, or a DataError."""
import random
import shutil
import time
from pathlib import Path

import pytest

from perception.common.image_preprocessor import ImagePreprocessor
from perception.lanes.datasets.apolloscape.reader import ApolloScapeLaneMark
from perception.lanes.datasets.bdd100k.reader import BDD100K
from perception.lanes.datasets.culane.reader import CULane
from perception.lanes.datasets.folder.reader import LaneFolder
from perception.lanes.datasets.llamas.reader import LLAMAS
from perception.lanes.datasets.tusimple.reader import TuSimple
from perception.utils.errors import DataError

SECONDS = 0.7  # for each format
LONGEST = 10  # seconds that any file may take
SETS = {
    'culane': ('culane', CULane, {}),
    'tusimple': ('tusimple', TuSimple, {}),
    'bdd100k': ('bdd100k', BDD100K, {}),
    'bdd100k official': ('bdd100k', BDD100K, dict(protocol='official')),
    'llamas': ('llamas', LLAMAS, {}),
    'apolloscape': ('apolloscape', ApolloScapeLaneMark, dict(crop_top=20)),
    'folder': ('culane', LaneFolder, dict(images='driver_*/*/*.jpg', labels='driver_*/*/*.lines.txt')),
    'folder of label images': ('culane', LaneFolder, dict(
        images='driver_1*/*/*.jpg', labels='laneseg_label_w16/driver_1*/*/*.png', splits=dict(
            train=['*/00000'], val=['*/00001'], test=['61_30frame']))),
}
WORDS = [b'-2', b'1e999', b'NaN', b'null', b'{}', b'[]', b'""', b'"\\ud800"', b'-1', b'99999999999999999999', b'\x00',
         b'\xff\xfe', b'\n', b' ', b'.jpg', b'/', b'../', b'true', b',', b'"', b'0.5', b'\xc3\xa9', b'[' * 3000]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """The bytes of a file with one kind of damage."""
    i, j = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    kind = rng.randrange(8)
    if kind == 0:
        return data[:i]
    if kind == 1:
        return data[:i] + data[j:]
    if kind == 2:
        return data[:j] + data[i:]
    if kind == 3:  # one word or number gives way to another
        start = data.rfind(b' ', 0, i) + 1
        end = data.find(b' ', start)
        return data[:start] + rng.choice(WORDS) + (data[end:] if end >= 0 else b'')
    if kind == 4:
        return data[:i] + rng.choice(WORDS) + data[i:]
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 5) if len(data) else 0):
        k = rng.randrange(len(data))
        changed[k] = rng.choice(b'0123456789-.,"[]{} \nx') if kind < 7 else rng.randrange(256)
    return bytes(changed)


def read_all(cls: type, root: Path, split: str, **arguments: object) -> None:
    dataset = cls(root, split, input_size=(16, 32), **arguments)
    classes = len(dataset.metainfo['classes'])
    for i in range(len(dataset)):
        item = dataset[i]
        sample = item['data_samples']
        assert item['inputs']['image'].shape == (3, 16, 32)
        if 'labels' in sample:
            assert sample.labels.shape == (16, 32) and int(sample.labels.max()) < classes
        for lane in sample.get('lanes') or []:
            assert lane.ndim == 2 and lane.shape[1] == 2
        if 'full_labels' in sample:
            assert tuple(sample.full_labels.shape) == sample.original_shape
        ImagePreprocessor()(dict(inputs=dict(image=[item['inputs']['image']]), data_samples=[sample]))


@pytest.mark.parametrize('name', SETS)
def test_damaged_files_are_read_or_refused(official, name, capfd):
    folder, cls, arguments = SETS[name]
    root, rng = official(folder), random.Random(0)
    for split in ('train', 'val', 'test'):
        read_all(cls, root, split, **arguments)
    files = sorted(path for path in root.rglob('*') if path.is_file())
    if name == 'bdd100k official':
        files = [path for path in files if path.suffix != '.json']  # it reads none
    rounds, refused, start = 0, 0, time.perf_counter()
    while time.perf_counter() < start + SECONDS or rounds < 10:
        texts = [path for path in files if path.suffix in ('.json', '.txt')]
        path = rng.choice(texts if texts and rng.random() < 0.6 else files)
        good = path.read_bytes()
        if rng.random() < 0.1:
            path.write_bytes(rng.choice(files).read_bytes())  # the bytes of another file
        else:
            path.write_bytes(mutate(good, rng))
        began = time.perf_counter()
        try:
            for split in ('train', 'val', 'test'):
                try:
                    read_all(cls, root, split, **arguments)
                except DataError as error:
                    assert str(root) in str(error), error
                    refused += 1
        finally:
            path.write_bytes(good)
        assert time.perf_counter() < began + LONGEST, f'{path} of round {rounds}'
        rounds += 1
    assert refused > rounds // 10  # much damage is found, and the test does damage something
    shutil.rmtree(root)
    capfd.readouterr()  # what image libraries print about damaged files
