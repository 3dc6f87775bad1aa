"""Tiny data sets in the official layouts: small images, a handful of files; probability maps with exact means."""
import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch

from perception.common.image_preprocessor import ImagePreprocessor
from perception.common.nets.resnet import ResNet
from perception.lanes.models.enet import ENet
from perception.lanes.models.erfnet import ERFNet
from perception.lanes.models.pspnet import PSPNet
from perception.lanes.models.scnn import SCNN

RECORDING = 'images-2014-12-22-12-35-10_mapping_280S_ramps'


def image(path: Path, size: tuple[int, int], seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 255, (size[0] // 8 + 1, size[1] // 8 + 1, 3), np.uint8)
    cv2.imwrite(str(path), cv2.resize(small, size[::-1], interpolation=cv2.INTER_LINEAR))


def png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)


def culane(root: Path) -> Path:
    """Two training images, one of val, two of test (normal, cross); 164 x 59 pixels."""
    lines = dict(train=[], val=[], test=[])
    for i, (split, driver) in enumerate([('train', 161), ('train', 161), ('val', 23), ('test', 37), ('test', 37)]):
        name = f'driver_{driver}_30frame/05151649_0422.MP4/{i:05d}'
        image(root / f'{name}.jpg', (59, 164), i)
        lanes = [] if i in (1, 4) else [[(40, 58), (50, 48.5), (-60.25, 38)], [(100, 58), (90, 48)]]
        text = ''.join(' '.join(f'{u} {v}' for u, v in lane) + ' \n' for lane in lanes)
        (root / f'{name}.lines.txt').write_text(text)
        labels = np.zeros((59, 164), np.uint8)
        for slot, lane in enumerate(lanes, 2):
            cv2.polylines(labels, [np.int32(np.round(lane))], False, slot, 3)
        flags = ' '.join('1' if slot in labels else '0' for slot in range(1, 5))
        if split == 'test':
            lines[split].append(f'/{name}.jpg')
        else:
            png(root / 'laneseg_label_w16' / f'{name}.png', labels)
            lines[split].append(f'/{name}.jpg /laneseg_label_w16/{name}.png {flags}')
    (root / 'list/test_split').mkdir(parents=True)
    for name, rows in (('train_gt', lines['train']), ('val_gt', lines['val']), ('test', lines['test']),
                       ('test_split/test0_normal', lines['test'][:1]), ('test_split/test7_cross', lines['test'][1:])):
        (root / f'list/{name}.txt').write_text('\n'.join(rows) + '\n')
    return root


def tusimple(root: Path) -> Path:
    """Three training images, one of val, one of test; 128 x 72 pixels."""
    rows = list(range(16, 72, 4))
    lanes = [[64 + k * (y - 10) // 8 if y >= 24 else -2 for y in rows] for k in (-14, -6, 7, 15)]
    files = {'label_data_0313': 2, 'label_data_0601': 1, 'label_data_0531': 1, 'test_label': 1}
    for name, count in files.items():
        records = []
        for i in range(count):
            path = f'clips/{name[-4:]}/{i}/20.jpg'
            image(root / path, (72, 128), i)
            records.append(dict(lanes=[lane if i < 1 else [-2] * len(rows) for lane in lanes], h_samples=rows,
                                raw_file=path))
        (root / f'{name}.json').write_text('\n'.join(map(json.dumps, records)) + '\n')
    tasks = [dict(h_samples=rows, raw_file='clips/abel/0/20.jpg')]
    (root / 'test_tasks_0627.json').write_text('\n'.join(map(json.dumps, tasks)) + '\n')
    return root


def bdd100k(root: Path) -> Path:
    """Seven training images, one of val, one of test; 128 x 72 pixels. One marking of two border lines each."""
    for folder, count in (('train', 7), ('val', 1), ('test', 1)):
        frames = []
        for i in range(count):
            name = f'{folder}{i:04d}'
            image(root / f'images/100k/{folder}/{name}.jpg', (72, 128), i)
            if folder == 'test':
                continue
            along, across = (dict(laneDirection=name, laneStyle='solid') for name in ('parallel', 'vertical'))
            labels = [dict(id=str(k), category='single white', attributes=along,
                           poly2d=[dict(vertices=[[u, 71.0], [60 + k, 20.0]], types='LL', closed=False)])
                      for k, u in enumerate((20, 24))]
            labels.append(dict(id='9', category='crosswalk', attributes=across,
                               poly2d=[dict(vertices=[[0, 60], [40, 62], [80, 60], [127, 60]], types='LCCL')]))
            frames.append(dict(name=f'{name}.jpg', labels=labels if i != 1 else None))
            mask = np.full((72, 128), 255, np.uint8)
            mask[30:40, 10:20], mask[50:52, :40] = 6 + 16, 32  # single white, dashed; crosswalk, vertical
            png(root / f'labels/lane/masks/{folder}/{name}.png', mask)
        if frames:
            path = root / f'labels/lane/polygons/lane_{folder}.json'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(frames))
    return root


def marker(u: tuple[int, int], v: tuple[int, int], z: float) -> dict:
    """A dash of LLAMAS between two pixels of a camera 1.4 m above the road."""
    def world(u: int, v: int) -> dict:
        depth = 1.4 * 1600 / (v - 300)
        return {axis: f'{value:.6f}' for axis, value in zip('xyz', ((u - 638) / 1600 * depth, 1.4, depth))}

    ends = {f'pixel_{name}': dict(x=str(u[i]), y=str(v[i])) for i, name in enumerate(('start', 'end'))}
    return dict(lane_marker_id=f'm{z}', **ends, world_start=world(u[0], v[0]), world_end=world(u[1], v[1]))


def llamas(root: Path) -> Path:
    """One image of each split at the official size; lanes l1 (short, dropped), l0, r0, r2."""
    def lane(name: str, slope: float, count: int) -> dict:
        rows = [(650 - 60 * i, 620 - 60 * i) for i in range(count)]
        return dict(lane_id=name, markers=[marker(tuple(round(638 + slope * (v - 300)) for v in pair), pair, i)
                                           for i, pair in enumerate(rows)])

    for folder in ('train', 'valid', 'test'):
        stem = f'{RECORDING}/1419260{len(folder)}_0510780795'
        image(root / f'color_images/{folder}/{stem}_color_rect.png', (717, 1276))
        if folder != 'test':
            label = dict(image_name=stem, projection_matrix=[[1600.0, 0.0, 638.0], [0.0, 1600.0, 300.0], [0, 0, 1]],
                         lanes=[lane('l1', -3, 1), lane('l2', -2.5, 5), lane('l0', -1, 5), lane('r0', 1, 5),
                                lane('r2', 2.5, 4)])
            path = root / f'labels/{folder}/{stem}.json'
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(label))
    return root


def apolloscape(root: Path) -> Path:
    """Two training images (road02 and road04), one of val, one of test; 96 x 80 pixels."""
    for road, record, camera in (('road02', 'Record001', 'Camera 5'), ('road04', 'Record003', 'Camera_6'),
                                 ('road04', 'Record015', 'Camera 6'), ('road05', 'Record001', 'Camera 5')):
        stem = f'171206_061127409_{camera.replace(" ", "_")}'
        image(root / f'ColorImage_{road}/ColorImage/{record}/{camera}/{stem}.jpg', (80, 96))
        if road != 'road05':
            labels = np.zeros((80, 96, 3), np.uint8)
            labels[40:44], labels[60:, 20:30], labels[70:, 50:] = (180, 130, 70), (142, 0, 0), (255, 255, 255)  # BGR
            png(root / f'Labels_{road}/Label/{record}/{camera.replace(" ", "_")}/{stem}_bin.png', labels)
    return root


@pytest.fixture(scope='session')
def official_writers() -> dict[str, Callable[[Path], Path]]:
    """Data set -> function that writes a tiny one into a folder and returns the folder."""
    return dict(culane=culane, tusimple=tusimple, bdd100k=bdd100k, llamas=llamas, apolloscape=apolloscape)


@pytest.fixture
def official(tmp_path: Path, official_writers: dict) -> Callable[[str], Path]:
    """Writes a tiny data set by its name."""
    return lambda name: official_writers[name](tmp_path / name)


@pytest.fixture(scope='session')
def random_probs() -> Callable[[int, int, int, int], torch.Tensor]:
    """Probabilities (1, classes, height, width) of a seed that are multiples of 2^-16, so that means are exact."""
    def random_probs(seed, classes, height, width):
        rng = np.random.default_rng(seed)
        coarse = rng.uniform(size=(1, classes, height // 4 + 1, width // 4 + 1)).astype(np.float32) ** 3
        fine = torch.nn.functional.interpolate(torch.from_numpy(coarse), size=(height, width), mode='bilinear')
        return (fine * 65536).round() / 65536
    return random_probs


@pytest.fixture(scope='session')
def slow_mean() -> Callable[[np.ndarray, int, int, int, str], int]:
    """8-bit mean of one square of an image, pixel by pixel; exact, halves up."""
    def slow_mean(image, row, column, kernel, padding):
        total, (height, width) = 0, image.shape
        for dy in range(-(kernel // 2), kernel // 2 + 1):
            for dx in range(-(kernel // 2), kernel // 2 + 1):
                y, x = row + dy, column + dx
                if padding == 'reflect':
                    y, x = abs(y), abs(x)
                    y, x = min(y, 2 * (height - 1) - y), min(x, 2 * (width - 1) - x)
                if 0 <= y < height and 0 <= x < width:
                    total += int(image[y, x] * 65536)
        return (510 * total + kernel ** 2 * 65536) // (2 * kernel ** 2 * 65536)
    return slow_mean


@pytest.fixture(scope='session')
def convert() -> Callable[..., tuple[dict[str, torch.Tensor], type, dict]]:
    """Convert published weights by a module: our weights, and class and arguments of the net in the printed line."""
    names = {kind.__name__: kind for kind in (ENet, ERFNet, PSPNet, ResNet, SCNN, ImagePreprocessor)} | dict(dict=dict)

    def run(module: ModuleType, source: dict, input_size: tuple[int, int] | None = None) -> tuple:
        assert module.fits(source)
        weights, line = module.convert(source, Namespace(input_size=input_size))
        arguments = eval(line.removeprefix('model = '), {'__builtins__': {}}, names)
        return weights, arguments.pop('type'), arguments
    return run


@pytest.fixture(scope='session')
def published(shared: Path) -> Callable[[str], dict[str, torch.Tensor]]:
    """Weights with the names of their project, by the name of a golden."""
    def read(name: str) -> dict[str, torch.Tensor]:
        with np.load(shared / f'goldens/{name}.npz') as file:
            return {key[11:]: torch.from_numpy(file[key]).float() for key in file.files if key.startswith('state_dict')}
    return read


def numbers(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """All values but those of the counters, in order of size."""
    return torch.cat([value.flatten() for name, value in weights.items() if 'num_batches' not in name]).sort().values


@pytest.fixture(scope='session')
def check_takeover(convert: Callable) -> Callable:
    """See that every published number arrives once, in memory of its own, and that the net loads them."""
    def check(module: ModuleType, source: dict, input_size: tuple[int, int] | None = None) -> None:
        weights, net, arguments = convert(module, source, input_size)
        net(**arguments).load_state_dict(weights)
        assert torch.equal(numbers(weights), numbers(source))
        assert not {v.data_ptr() for v in weights.values()} & {v.data_ptr() for v in source.values()}
    return check
