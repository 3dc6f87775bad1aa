"""Damaged files of every format: each outcome is a correct result, or one sentence of a DataError or its like."""
import copy
import json
import random
import shutil
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from perception.common.formats.kitti import read_calib, read_poses, read_times
from perception.common.structures import PointSegSample
from perception.lidarseg.convert.cylinder3d import MODULES, convert_cylinder3d
from perception.lidarseg.convert.minkunet import PROJECTS, convert_minkunet, find_origins
from perception.lidarseg.convert.spvnas import convert_spvnas
from perception.lidarseg.datasets.semantickitti.reader import SPLITS, SemanticKITTI, SemanticKITTIMultiScan, scan_paths
from perception.lidarseg.datasets.semantickitti.submission import prediction_name, validate_submission, write_zip
from perception.lidarseg.models.cylinder3d import Cylinder3D
from perception.lidarseg.models.minkunet import MinkUNet
from perception.lidarseg.models.spvcnn import SPVCNN
from perception.lidarseg.models.spvnas import NETS, SPVNAS, read_net_config, to_net_config
from perception.lidarseg.preprocessor import CubeVoxelizer, CylinderVoxelizer
from perception.utils.checkpoint import load_checkpoint, load_weights, weights_of
from perception.utils.errors import CheckpointError, ConfigError, DataError

SECONDS = 1.0  # for each format
WORDS = [b'-2', b'1e999', b'NaN', b'null', b'{}', b'[]', b'""', b'-1', b'99999999999999999999', b'\x00', b'\xff\xfe',
         b'\n', b' ', b'true', b',', b'"', b'0.5', b'\xc3\xa9', b'[' * 3000, b'1e20', b'9' * 5000]
FLOATS = [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e20, 1e9, 1e-40, 0.0, -0.0]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """The bytes of a file with one kind of damage."""
    i, j = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    kind = rng.randrange(9)
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
    if kind == 5:  # one float gives way to another
        k = 4 * rng.randrange(len(data) // 4 + 1)
        return data[:k] + np.float32(rng.choice(FLOATS)).tobytes() + data[k + 4:]
    if kind == 6:  # whole records are left out, as in a copy that was cut
        return data[:i // 16 * 16] + data[j // 16 * 16:]
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 5) if len(data) else 0):
        changed[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(changed)


def rounds(least: int = 20):
    """Rounds while there is time."""
    count, start = 0, time.perf_counter()
    while time.perf_counter() < start + SECONDS or count < least:
        count += 1
        yield count


def damaged(files, rng):
    """One of the files with damage, or with the bytes of another; and what it held before."""
    path = rng.choice(files)
    good = path.read_bytes()
    path.write_bytes(rng.choice(files).read_bytes() if rng.random() < .1 else mutate(good, rng))
    return path, good


# --- SemanticKITTI -------------------------------------------------------------------------------------------------
@pytest.fixture
def small_kitti(mini_kitti, tmp_path) -> Path:
    """Scans of some hundred points, which are read in no time."""
    root = tmp_path / 'semantickitti'
    shutil.copytree(mini_kitti, root)
    for path in root.rglob('*.bin'):
        path.write_bytes(path.read_bytes()[:16 * 300])
    for path in root.rglob('*.label'):
        path.write_bytes(path.read_bytes()[:4 * 300])
    return root


def check_sample(item: dict, classes: int, labelled: bool) -> None:
    points, sample = item['inputs']['points'], item['data_samples']
    assert points.dtype == torch.float32 and points.shape == (len(points), 4) and bool(torch.isfinite(points).all())
    assert ('labels' in sample) == labelled
    if labelled:
        assert sample.labels.shape == (len(points),)
        assert bool(((sample.labels < classes) | (sample.labels == 255)).all())
    for voxelizer in (CubeVoxelizer(.2), CylinderVoxelizer((48, 36, 8))):
        try:
            voxels = voxelizer(dict(inputs=dict(points=[points]), data_samples=[sample]))['inputs']
        except DataError as error:  # coordinates too far away for a grid
            assert 'scan ' in str(error), error
            continue
        assert len(voxels['point_to_voxel']) == len(points)
        assert not len(points) or int(voxels['voxel_coords'].min()) >= 0
        assert all(bool((voxels['voxel_coords'][:, k + 1] < n).all()) for k, n in enumerate(voxels['grid_shape']))


@pytest.mark.parametrize('cls', [SemanticKITTI, SemanticKITTIMultiScan])
def test_damaged_scans_labels_and_poses_are_read_or_refused(small_kitti, cls):
    def read_all():
        for split in ('train', 'val'):
            dataset = cls(small_kitti, split, sequences={'train': [0], 'val': [8]}[split])
            for i in range(len(dataset)):
                check_sample(dataset[i], len(dataset.metainfo['classes']), True)
        dataset = cls(small_kitti, 'test', sequences=[11])
        check_sample(dataset[0], len(dataset.metainfo['classes']), False)

    read_all()
    wanted = ('.bin', '.label') if cls is SemanticKITTI else ('.bin', '.label', 'poses.txt', 'calib.txt')
    files = sorted(path for path in small_kitti.rglob('*') if path.name.endswith(wanted)
                   and path.relative_to(small_kitti).parts[1] in ('00', '08', '11'))
    rng, refused, count = random.Random(0), 0, 0
    for _ in rounds():
        count += 1
        path, good = damaged(files, rng)
        try:
            read_all()
        except DataError as error:
            assert str(small_kitti) in str(error), error
            refused += 1
        finally:
            path.write_bytes(good)
    assert refused > count // 10  # much damage is found, and the test does damage something


def test_damaged_calibration_poses_and_times_are_read_or_refused(small_kitti):
    folder = small_kitti / 'sequences/00'
    readers = {'calib.txt': read_calib, 'poses.txt': read_poses, 'times.txt': read_times}
    rng, refused, count = random.Random(0), 0, 0
    for _ in rounds(200):
        count += 1
        path, good = damaged([folder / name for name in readers], rng)
        try:
            found = readers[path.name](path)
            for values in found.values() if isinstance(found, dict) else [found]:
                assert values.dtype == np.float64 and np.isfinite(values).all()
                assert values.shape[-2:] == (4, 4) or path.name == 'times.txt'
        except DataError as error:
            assert str(path) in str(error), error
            refused += 1
        finally:
            path.write_bytes(good)
    assert refused > count // 10


# --- submissions -----------------------------------------------------------------------------------------------------
def test_damaged_submissions_are_judged(tmp_path):
    scans = [f'{sequence:02d}_000000' for sequence in SPLITS['test']]
    for number, scan in enumerate(scans):
        path = scan_paths(tmp_path / 'data', scan)[0]
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(16 * number))
        labels = tmp_path / 'out' / prediction_name(scan)
        labels.parent.mkdir(parents=True)
        labels.write_bytes(np.full(number, 40, '<u4').tobytes())
    path, problems = write_zip(tmp_path / 'out', scans, tmp_path / 'data')
    good, rng, refused, count = path.read_bytes(), random.Random(0), 0, 0
    assert problems == validate_submission(path, tmp_path / 'data') == []
    for _ in rounds(50):
        count += 1
        if rng.random() < .5:
            path.write_bytes(mutate(good, rng))
        else:  # a sound zip with other entries
            with zipfile.ZipFile(path, 'w') as archive:
                for scan in scans:
                    name = prediction_name(scan)
                    for parent in list(Path(name).parents)[:-1]:
                        if rng.random() < .98 and f'{parent}/' not in archive.namelist():
                            archive.writestr(f'{parent}/', b'')
                    if rng.random() < .95:
                        archive.writestr(name, mutate((tmp_path / 'out' / name).read_bytes(), rng))
        problems = validate_submission(path, tmp_path / 'data')
        assert all(isinstance(problem, str) and problem for problem in problems)
        refused += bool(problems)
    assert refused > count // 3


# --- checkpoints -----------------------------------------------------------------------------------------------------
def published() -> dict:
    """Small nets under the names of each project, with their converters."""
    cases = {}
    for project, (names, layout) in PROJECTS.items():
        for net in (MinkUNet, SPVCNN):
            with torch.device('meta'):
                origins = find_origins(net(width=.0625, num_classes=3), names, layout)
            cases[f'{net.__name__}, {project}'] = (
                {origin.name: torch.rand(origin.shape) for origin in origins.values()}, convert_minkunet,
                lambda result, net=net: net(width=.0625, num_classes=3))
    net = Cylinder3D(base_channels=2, compression=2, point_channels=4, num_classes=3, point_widths=(4, 4, 4),
                     indice_sharing='correct')
    for number, style in enumerate(('Cylinder3D, PVKD', 'Cylinder3D, mmdet3d')):
        state = {f'{MODULES[module][number]}.{leaf}': value for name, value in net.state_dict().items()
                 for module, leaf in [name.rsplit('.', 1)]}
        cases[style] = state, convert_cylinder3d, lambda result: Cylinder3D(**result[1])
    return cases


def damage_weights(state: dict, rng: random.Random, donors: list) -> dict:
    """A checkpoint with another structure: names, shapes, kinds of values."""
    state, names = dict(state), list(state)
    name, kind = rng.choice(names), rng.randrange(12)
    value = state[name]
    if kind == 0:
        del state[name]
    elif kind == 1:
        state = {old: state[old] for old in names[:rng.randrange(len(names))]}
    elif kind == 2:
        state[name] = value.flatten()[:rng.randrange(value.numel() + 1)]
    elif kind == 3:
        state[name] = value.transpose(0, -1) if value.dim() > 1 else value[None]
    elif kind == 4:
        state[name] = rng.choice([None, 3, 'text', [1, 2], {}, torch.zeros(0), torch.tensor(1.0)])
    elif kind == 5:
        state[rng.choice(['extra', '', '.', 'a' * 100, 7, ('a', 'b')])] = torch.zeros(2)
    elif kind == 6:
        state.update(rng.choice(donors))
    elif kind == 7:
        state = rng.choice([{}, dict(state_dict=None), dict(state_dict=[state]), dict(model=3), dict(meta=state)])
    elif kind == 8:
        state = dict(state_dict={f'module.{old}': tensor for old, tensor in state.items()})
    elif kind == 9:
        state[name] = value.to(rng.choice([torch.float16, torch.int64, torch.bool, torch.complex64]))
    elif kind == 10:
        state[name] = torch.full_like(value, float('nan')) if value.is_floating_point() else value
    else:
        other = rng.choice(names)
        state[name], state[other] = state[other], state[name]
    return state


def test_damaged_weights_are_converted_or_refused():
    torch.manual_seed(0)
    cases = published()
    narrow = dict(to_net_config(NETS['65GMACs']), output_channels=[4] * 9)
    narrow = {name: 4 if name.endswith(('transition', 'layers.0')) else value for name, value in narrow.items()}
    donors = [state for state, *_ in cases.values()]
    rng, refused, count = random.Random(0), 0, 0
    for state, convert, build in cases.values():
        result = convert(copy.copy(state))
        load_weights(build(result), result[0])
    for _ in rounds(400):
        count += 1
        state, convert, build = rng.choice(list(cases.values()))
        bad = damage_weights(state, rng, donors)
        try:
            result = convert(weights_of(bad) if rng.random() < .5 else bad)
            load_weights(build(result), result[0])
        except CheckpointError as error:
            assert len(str(error)) < 3000, error
            refused += 1
    assert count / 4 < refused < count
    for kind in (convert_spvnas, convert_cylinder3d, convert_minkunet):  # each with the files of the others
        for state, convert, _ in cases.values():
            if kind is not convert:
                with pytest.raises(CheckpointError):
                    kind(state)
    assert read_net_config(narrow)


def test_damaged_checkpoint_files_are_loaded_whole_or_refused(tmp_path):
    net = MinkUNet(width=.0625, num_classes=3)
    path = tmp_path / 'model.pth'
    torch.save(dict(state_dict=net.state_dict(), meta=dict(epoch=3)), path)
    good, rng, refused, count = path.read_bytes(), random.Random(0), 0, 0
    for _ in rounds(30):
        count += 1
        path.write_bytes(mutate(good, rng))
        try:
            load_weights(net, load_checkpoint(path))
        except CheckpointError as error:
            assert str(path) in str(error) or 'checkpoint: ' in str(error), error
            refused += 1
    assert refused > count // 3


# --- net.config ------------------------------------------------------------------------------------------------------
def test_damaged_net_configs_are_read_or_refused(tmp_path):
    path = tmp_path / 'net.config'
    good = json.dumps(dict(to_net_config(NETS['65GMACs']), num_classes=19, pres=.05, vres=.05)).encode()
    path.write_bytes(good)
    assert read_net_config(path) == NETS['65GMACs']
    rng, refused, count = random.Random(0), 0, 0
    for _ in rounds(100):
        count += 1
        if rng.random() < .5:
            path.write_bytes(mutate(good, rng))
        else:
            values = json.loads(good)
            name = rng.choice(list(values))
            values[name] = rng.choice([None, -1, 0, 1, 3, 1.5, 10**30, True, 'a', [], {}, [1], [[1]] * 9, float('nan')])
            path.write_text(json.dumps(values))
        try:
            architecture = read_net_config(path)
            with torch.device('meta'):
                SPVNAS(net=path)
            assert len(architecture.down) == len(architecture.up) == 4
        except ConfigError as error:
            assert str(path) in str(error), error
            assert len(str(error)) < 20_000
            refused += 1
    assert refused > count // 3


# --- points that came as arrays --------------------------------------------------------------------------------------
@pytest.mark.parametrize('net, voxelizer', [
    (Cylinder3D(base_channels=2, compression=2, point_channels=4, point_widths=(4, 4, 4)),
     CylinderVoxelizer((48, 36, 8))),
    (MinkUNet(width=.0625), CubeVoxelizer(.2)), (SPVCNN(width=.0625), CubeVoxelizer(.2)),
    (SPVNAS(ratio=.05), CubeVoxelizer(.2))], ids=['cylinder3d', 'minkunet', 'spvcnn', 'spvnas'])
def test_any_points_are_labelled_or_refused(net, voxelizer):
    rng, generator = random.Random(0), torch.Generator().manual_seed(0)
    net.eval()
    refused, count = 0, 0
    for _ in rounds(20):
        count += 1
        scans = [torch.randn(rng.choice([0, 1, 2, 40]), 4, generator=generator) * rng.choice([0, 1, 30, 1e4])
                 for _ in range(rng.choice([1, 2, 3]))]
        if rng.random() < .5 and len(scans[0]):
            scans[0][rng.randrange(len(scans[0])), rng.randrange(4)] = rng.choice(FLOATS)
        data = dict(inputs=dict(points=scans), data_samples=[PointSegSample() for _ in scans])
        try:
            with torch.no_grad():
                samples = net(**voxelizer(data), mode='predict')
        except DataError as error:
            assert 'scan ' in str(error), error
            refused += 1
            continue
        for scan, sample in zip(scans, samples):
            assert sample.pred_labels.shape == (len(scan),)
            assert not len(scan) or 0 <= int(sample.pred_labels.min()) <= int(sample.pred_labels.max()) < 19
    assert 0 < refused < count
