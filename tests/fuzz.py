"""Damaged files of every format: each outcome is a good sample or one sentence, soon and in bounded memory.

`tools/benchmark.py fuzz --minutes N` does the same for longer.
"""
import copy
import json
import os
import random
import re
import shutil
import time
import zipfile
from argparse import Namespace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from perception.apis.benchmarks import fuzz
from perception.apis.benchmarks.fuzz import (
    FLOATS,
    Fuzzer,
    Reader,
    Tally,
    damage,
    predictor_of,
    readers_of,
    report,
    tiny_config,
)
from perception.apis.config import called
from perception.common.formats.kitti import read_calib, read_poses
from perception.common.saving import STAMP, read_prediction, read_stamp, write_prediction
from perception.common.structures import BoxSample, PointSegSample
from perception.lidarseg.convert.cylinder3d import MODULES, convert_cylinder3d
from perception.lidarseg.convert.minkunet import PROJECTS, convert_minkunet, find_origins
from perception.lidarseg.convert.spvnas import convert_spvnas
from perception.lidarseg.datasets.semantickitti.reader import SPLITS, scan_paths
from perception.lidarseg.datasets.semantickitti.submission import prediction_name, validate_submission, write_zip
from perception.lidarseg.models.cylinder3d import Cylinder3D
from perception.lidarseg.models.minkunet import MinkUNet
from perception.lidarseg.models.spvcnn import SPVCNN
from perception.lidarseg.models.spvnas import NETS, SPVNAS, read_net_config, to_net_config
from perception.lidarseg.preprocessor import CubeVoxelizer, CylinderVoxelizer
from perception.utils.checkpoint import load_checkpoint, load_weights, weights_of
from perception.utils.errors import CheckpointError, ConfigError, DataError

# base -> its simulated data, rounds; images of official size take time
SETS = {'semantickitti': ('semantickitti', 25), 'semantickitti_multiscan': ('semantickitti', 20),
        'nuscenes': ('nuscenes', 20), 'point_folder': ('point_folder', 25), 'culane': ('culane', 25),
        'tusimple': ('tusimple', 15), 'bdd100k': ('bdd100k', 12), 'llamas': ('llamas', 12),
        'lane_folder': ('lane_folder', 15), 'apolloscape': ('apolloscape', 6), 'stcrowd': ('stcrowd', 20),
        'udacity': ('udacity', 20), 'comma': ('comma', 20), 'bdd_driving': ('bdd_driving', 12),
        'cityscapes': ('cityscapes', 10), 'nuscenes_rig': ('nuscenes_rig', 15),
        'rig_folder': ('rig_folder', 15)}


@pytest.fixture(autouse=True)
def one_thread():
    """Threads do not live on in forked processes."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    yield
    cv2.setNumThreads(threads)


# --- data sets and predictors ----------------------------------------------------------------------------------------
@pytest.mark.parametrize('name', SETS)
def test_damaged_files_of_a_data_set_are_read_or_refused(name, mini_set, tmp_path):
    data, rounds = SETS[name]
    root = Path(shutil.copytree(mini_set(data), tmp_path / name))
    if data == 'semantickitti':  # scans of some hundred points are read in no time
        for suffix, size in (('bin', 16), ('label', 4)):
            for path in root.rglob(f'*.{suffix}'):
                path.write_bytes(path.read_bytes()[:300 * size])
    before = {path: path.read_bytes() for path in root.rglob('*') if path.is_file()}
    cfg = tiny_config(name)
    fuzzer = Fuzzer(name, root, readers_of(name, cfg, root))
    outcomes = [fuzzer.step() for _ in range(rounds)]
    assert set(outcomes) <= {'read', 'refused'}, report(fuzzer.tallies, 0)
    assert outcomes.count('refused') > rounds // 10  # the damage is found, and it does damage something
    assert all(tally.memory < 1 << 30 for tally in fuzzer.tallies.values())
    assert before == {path: path.read_bytes() for path in before}  # all is mended again


@pytest.mark.parametrize('name', ['semantickitti', 'culane'])
def test_damaged_files_of_all_formats_that_people_bring_are_read_or_refused(name, tmp_path):
    cfg = tiny_config(name)
    root = called(cfg.tiny_sources, folder=tmp_path / name)
    fuzzer = Fuzzer(name, root, [predictor_of(name, cfg, root)])
    outcomes = [fuzzer.step() for _ in range(40)]
    assert set(outcomes) <= {'read', 'refused'}, report(fuzzer.tallies, 0)
    assert 'refused' in outcomes


def test_the_same_seed_damages_in_the_same_way():
    def bytes_of(seed):
        rng = random.Random(seed)
        return [damage(bytes(range(200)), rng, b'other') for _ in range(300)]

    assert bytes_of('a') == bytes_of('a') != bytes_of('b')
    assert len({kind(b'', random.Random(0), b'') for kind in fuzz.KINDS}) > 3  # an empty file can be damaged too


class Bad:
    """Reads a file in a way that goes wrong for one of its texts."""

    num_classes = 3

    def __init__(self, path):
        self.text = path.read_text(errors='replace')[:5]

    def __len__(self):
        return 1

    def __getitem__(self, index):
        if self.text == 'crash':
            raise RecursionError('deep')
        if self.text == 'abort':
            os.abort()
        if self.text == 'sleep':
            time.sleep(60)
        if self.text == 'large':
            np.ones(8 << 30, np.uint8)
        if self.text == 'quiet':
            raise DataError('somewhere: something, expected another thing. Do that.')
        points = torch.full((4, 4), np.nan if self.text == 'point' else 0.0)
        labels = torch.tensor([0, 1, 2, 7 if self.text == 'label' else 255][:3 if self.text == 'sizes' else 4])
        return dict(inputs=dict(points=points), data_samples=PointSegSample(labels=labels))


@pytest.mark.parametrize(('text', 'outcome', 'why'), [
    ('fine', 'read', ''), ('crash', 'crash', r'RecursionError: deep \(fuzz.py:'), ('abort', 'crash', 'SIGABRT'),
    ('sleep', 'crash', 'no end within 0.5 s'), ('large', 'crash', 'Memory'), ('quiet', 'wrong', 'names no file'),
    ('point', 'wrong', 'points is not finite'), ('label', 'wrong', 'labels are out of range'),
    ('sizes', 'wrong', r'labels of shape \(3,\) for inputs of \(4, 4\)')])
def test_whatever_goes_wrong_is_noticed(tmp_path, monkeypatch, text, outcome, why):
    path = tmp_path / 'set/a.txt'
    path.parent.mkdir()
    path.write_text('fine')
    monkeypatch.setattr(fuzz, 'damage', lambda *_: text.encode())
    fuzzer = Fuzzer('bad', path.parent, [Reader('bad', lambda: Bad(path), fuzz.check_item)], keep=tmp_path / 'kept')
    monkeypatch.setattr(fuzz, 'SECONDS', 0.5 if text == 'sleep' else 10.0)
    assert fuzzer.step() == outcome and path.read_text() == 'fine'
    found = ' '.join(fuzzer.tallies['bad .txt'].examples)
    assert re.search(why, found)
    assert (tmp_path / 'kept/bad_0_a.txt').is_file() == (outcome in ('wrong', 'crash'))


def boxes_of(**changes):
    """An item with two boxes, the velocity of one unknown."""
    boxes = torch.ones(2, 9)
    boxes[0, 7:] = np.nan
    fields = dict(boxes=boxes, labels=torch.zeros(2, dtype=torch.int64), ignore=torch.zeros(2, dtype=torch.bool))
    return dict(inputs=dict(points=torch.zeros(4, 4)), data_samples=BoxSample(**dict(fields, **changes)))


@pytest.mark.parametrize(('changes', 'why'), [
    ({}, None), (dict(boxes=torch.full((2, 9), torch.inf)), 'boxes is not finite'),
    (dict(boxes=torch.cat([torch.ones(2, 8), torch.full((2, 1), torch.inf)], 1)), 'boxes is not finite'),
    (dict(boxes=torch.full((2, 9), torch.nan)), 'boxes is not finite'),
    (dict(boxes=torch.zeros(2, 9)), 'boxes without a size'), (dict(ignore=torch.zeros(3)), '3 ignore of 2 boxes'),
    (dict(labels=torch.zeros(4, dtype=torch.int64)), '4 labels of 2 boxes'),
    (dict(labels=torch.tensor([0, 3])), 'labels are out of range')])
def test_boxes_are_judged_too(changes, why):
    problems = fuzz.check_item(boxes_of(**changes), num_classes=1)
    assert problems == [] if why is None else why in problems


def test_a_set_that_is_bad_without_damage_is_said(tmp_path):
    (tmp_path / 'a.txt').write_text('point')
    with pytest.raises(DataError, match='the set without damage is not read well .points is not finite'):
        Fuzzer('bad', tmp_path, [Reader('bad', lambda: Bad(tmp_path / 'a.txt'), fuzz.check_item)])


def test_an_unknown_set_or_no_time_is_refused():
    for arguments, message in ((dict(minutes=0), 'minutes=0'), (dict(sets=['culan']), 'Did you mean culane')):
        with pytest.raises(ConfigError, match=message):
            fuzz.run(Namespace(**dict(dict(minutes=1, seed=0, sets=[], keep=None), **arguments)))


def test_the_report_counts_each_format():
    tally = Tally(seconds=1.5, memory=3 << 20, examples={'why': 'round 3, a.jpg'})
    tally.outcomes.update(read=1000, refused=5, wrong=1)
    text = report({'culane .jpg': tally}, 7)
    assert '| culane .jpg | 1,006 | 5 | 1,000 | 1 | 0 | 1.50 | 3 |' in text
    assert '1,006 files, seed 7: 1 wrong results, 0 crashes' in text and '* culane .jpg, round 3, a.jpg: why' in text


# --- single files ----------------------------------------------------------------------------------------------------
def test_damaged_calibration_and_poses_are_read_or_refused(mini_kitti, tmp_path):
    readers = {'calib.txt': read_calib, 'poses.txt': read_poses}
    files = [Path(shutil.copy(mini_kitti / 'sequences/00' / name, tmp_path)) for name in readers]
    rng, refused = random.Random(0), 0
    for _ in range(300):
        path = rng.choice(files)
        good = path.read_bytes()
        path.write_bytes(damage(good, rng, rng.choice(files).read_bytes()))
        try:
            found = readers[path.name](path)
            for values in found.values() if isinstance(found, dict) else [found]:
                assert values.dtype == np.float64 and np.isfinite(values).all()
                assert values.shape[-2:] == (4, 4)
        except DataError as error:
            assert str(path) in str(error), error
            refused += 1
        path.write_bytes(good)
    assert refused > 30


def test_damaged_predictions_and_stamps_of_a_saved_test_are_read_or_made_again(tmp_path):
    write_prediction(tmp_path / 'a.npy', torch.arange(40) % 7)
    (tmp_path / STAMP).write_text(json.dumps(dict(checkpoint=['abc'], net=['n'], data=None)))
    rng, lost = random.Random(0), 0
    good = {path: path.read_bytes() for path in (tmp_path / 'a.npy', tmp_path / STAMP)}
    for _ in range(250):
        for path, data in good.items():
            path.write_bytes(damage(data, rng, rng.choice(list(good.values()))))
        stamp, labels = read_stamp(tmp_path / STAMP), read_prediction(tmp_path / 'a.npy')
        assert stamp is None or isinstance(stamp, dict)
        assert labels is None or (labels.dtype == torch.int64 and labels.ndim == 1)
        lost += (stamp is None) + (labels is None)
    assert lost > 250


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
    for _ in range(120):
        count += 1
        if rng.random() < .5:
            path.write_bytes(damage(good, rng))
        else:  # a sound zip with other entries
            with zipfile.ZipFile(path, 'w') as archive:
                for scan in scans:
                    name = prediction_name(scan)
                    for parent in list(Path(name).parents)[:-1]:
                        if rng.random() < .98 and f'{parent}/' not in archive.namelist():
                            archive.writestr(f'{parent}/', b'')
                    if rng.random() < .95:
                        archive.writestr(name, damage((tmp_path / 'out' / name).read_bytes(), rng))
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
    for _ in range(150):
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
    for _ in range(60):
        count += 1
        path.write_bytes(damage(good, rng))
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
    for _ in range(150):
        count += 1
        if rng.random() < .5:
            path.write_bytes(damage(good, rng))
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
    for _ in range(12):
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
