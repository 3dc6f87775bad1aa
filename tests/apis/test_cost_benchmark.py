"""What nets cost: of any room, students beside their teachers, on nets and samples that take no time."""
import argparse
import csv
import math
from types import SimpleNamespace

import pytest
import torch

from perception.apis.benchmarks import cost
from perception.apis.listing import add_options
from perception.common.structures import LaneSample
from perception.lidarseg.datasets.semantickitti.reader import SemanticKITTI
from perception.ops.sparse.maps import VoxelSet
from perception.utils.errors import CheckpointError, ConfigError


def arguments(*words):
    parser = add_options(argparse.ArgumentParser(), cost.OPTIONS)
    return parser.parse_args([str(word) for word in words])


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """No mini data is written and no process started; `change` is applied to each config that is read."""
    state = SimpleNamespace(change=lambda cfg: None, written=0, memory=0, words=['--rounds', '1', '--out', tmp_path])
    load = cost.load_config

    def read(path, mini=False, options=None):
        cfg = load(path, mini, options)
        state.change(cfg)
        return cfg

    def memory(function, cfg):
        state.memory += 1
        return 512.

    def write(cfg):
        state.written += 1

    monkeypatch.setattr(cost, 'load_config', read)
    monkeypatch.setattr(cost, 'write_mini_data', write)
    monkeypatch.setattr(cost, 'process_memory', memory)
    return state


def test_costs_of_a_teacher_and_its_student(quick, mini_kitti, monkeypatch, tmp_path):
    read = SemanticKITTI.read

    def read_few(self, index):
        sample = read(self, index)
        return dict(sample, points=sample['points'][::200], labels=sample['labels'][::200])

    monkeypatch.setattr(SemanticKITTI, 'read', read_few)
    quick.change = lambda cfg: cfg.val_dataloader.dataset.update(data_root=str(mini_kitti), sequences=[8])
    names = ['configs/lidarseg/minkunet_kitti.py', 'configs/lidarseg/minkunet_half_kitti.py']
    teacher, student = rows = cost.run(arguments(*names, '--mini', '--samples', '2', *quick.words))
    assert [row['config'] for row in rows] == names
    assert (teacher['parameters'], student['parameters']) == (727_515, 182_727)
    assert teacher['gmac'] > 2 * student['gmac'] > 0
    assert min(row[key] for row in rows for key in ('preprocess_ms', 'cpu_ms')) > 0
    assert all(row['input'].endswith(' voxels') and ' points, ' in row['input'] for row in rows)
    assert quick.memory == quick.written == 2 and student['memory_mib'] == 512
    assert 'against' not in teacher
    assert student['against'] == names[0]
    assert student['gmac_saved'] == 1 - student['gmac'] / teacher['gmac']
    assert student['cpu_speedup'] == teacher['cpu_ms'] / student['cpu_ms']
    text = (tmp_path / 'cost.md').read_text()
    assert 'mini scale' in text and 'simulated' in text and '74.9 % fewer' in text and 'ONNX' not in text
    with open(tmp_path / 'cost.csv', newline='') as file:
        table = list(csv.DictReader(file))
    assert [row['config'] for row in table] == names
    assert float(table[1]['gmac']) == student['gmac']


def test_a_lane_net_at_its_own_size(quick, monkeypatch):
    sample = dict(inputs=dict(image=torch.zeros(3, 112, 320, dtype=torch.uint8)), data_samples=LaneSample())
    monkeypatch.setattr(cost, 'DATASETS', SimpleNamespace(build=lambda cfg: [sample] * 9))
    model, batches = cost.build(cost.config_of('configs/lanes/resnet18_culane.py', mini=True), 4)
    assert len(batches) == 4 and not model.training
    row, = cost.measure(dict(net=cost.config_of('configs/lanes/resnet18_culane.py', mini=True)), 1, samples=4)
    assert (row['input'], row['parameters']) == ('112 x 320', 809_625)
    assert min(row['gmac'], row['cpu_ms'], row['preprocess_ms']) > 0
    assert row['memory_mib'] is None and (row['gpu_ms'] is None) != torch.cuda.is_available()


def test_any_room_with_published_figures_scores_and_an_export(quick, toy, toy_config, monkeypatch, tmp_path):
    pytest.importorskip('onnxruntime', reason='the extra onnx is not installed')

    def deployable(self):
        return torch.nn.Sequential(self.backbone, self.head).eval(), dict(feats=torch.rand(1, 6)), ['logits']

    monkeypatch.setattr(toy.ToyModel, 'deployable', deployable, raising=False)
    quick.change = lambda cfg: cfg.update(published=dict(parameters=200, ms=1.5), work_dir=str(tmp_path / 'run'))
    words = [toy_config, '--trained', *quick.words]
    with pytest.raises(CheckpointError, match='run: no weights here'):
        cost.run(arguments(*words))
    (tmp_path / 'run').mkdir()
    torch.save(dict(message_hub=dict(runtime_info=dict(best_score=torch.tensor(75.))), meta={}),
               tmp_path / 'run/epoch_2.pth')
    torch.save({}, tmp_path / 'run/model.pth')
    row, = cost.run(arguments(*words))
    assert (row['input'], row['parameters'], row['score']) == ('inputs 6', 6 * 16 + 3 * 16 + 16 * 3 + 3, 75)
    assert row['gmac'] == (6 * 16 + 16 * 3) / 1e9
    assert row['onnx_ms'] > 0
    assert (row['published_parameters'], row['published_gmac'], row['published_ms']) == (200, None, 1.5)
    head = (tmp_path / 'cost.md').read_text().splitlines()[2]
    assert 'published parameters' in head and 'published GMAC' not in head and 'ONNX Runtime' in head
    row, = cost.run(arguments(toy_config, '--mini', '--no-onnx', *quick.words))
    assert row['parameters'] == 6 * 8 + 3 * 8 + 8 * 3 + 3
    assert row['published_ms'] is row['onnx_ms'] is row['score'] is None


@pytest.mark.parametrize('path, mini, official, expected', [
    ('configs/lanes/enet_culane.py', False, False, dict(data_root='data/mini/culane', input_size=(288, 800))),
    ('configs/lanes/enet_culane.py', True, False, dict(data_root='data/mini/culane', input_size=(112, 320))),
    ('configs/lanes/enet_culane.py', True, True, dict(data_root='data/culane', input_size=(112, 320))),
    ('configs/lidarseg/minkunet_nuscenes.py', False, False, dict(data_root='data/mini/nuscenes', split='mini_val')),
    ('configs/lidarseg/minkunet_nuscenes.py', False, True, dict(data_root='data/nuscenes', split='val'))])
def test_simulated_data_at_the_size_of_the_net(quick, path, mini, official, expected):
    dataset = cost.config_of(path, mini, official).val_dataloader.dataset
    assert {key: dataset[key] for key in expected} == expected
    assert quick.written == (not official)


def test_a_training_without_validation_has_no_score(tmp_path):
    torch.save(dict(message_hub=dict(runtime_info=dict(best_score=None)), meta={}), tmp_path / 'epoch_1.pth')
    torch.save({}, tmp_path / 'model.pth')
    assert math.isnan(cost.best_score(tmp_path, 'x.py', False))


class Maps(torch.nn.Module):
    """A net that makes a kernel map and notes how many there were."""

    def __init__(self):
        super().__init__()
        self.found = []

    def forward(self, inputs, data_samples, mode):
        self.found.append(len(inputs['voxels'].maps))
        inputs['voxels'].subm_map((3, 3, 3), (1, 1, 1))


@pytest.mark.parametrize('source', [None, 'scan.bin'])
def test_times_are_those_of_a_new_batch(monkeypatch, source):
    coords, net = torch.tensor([[0, 0, 0, 1], [0, 1, 2, 3]]), Maps()
    batch = dict(inputs=dict(voxels=VoxelSet(coords, (2, 3, 4), 1)), data_samples=None)
    monkeypatch.setattr(cost, 'build', lambda cfg, samples: (net, [lambda: batch]))
    monkeypatch.setattr('gc.collect', lambda: 0)  # which takes its time
    row, = cost.measure(dict(net=dict(source=source)), 2)
    assert net.found[:4] == [0] * 4  # counted, then three times run: kernel maps are made each time
    assert (row['preprocess_ms'] is None) == (source is not None)  # reading a file is no preprocessing


def config(**teachers):
    return SimpleNamespace(model=dict(teachers={name: dict(trained_by=by) for name, by in teachers.items()}))


def test_whom_a_net_is_compared_with():
    teacher, half, method, other = 'a/net.py', 'a/net_half.py', 'm/net.py', 'a/other.py'
    cfgs = {other: config(), half: config(), teacher: config(), method: config(full=teacher)}
    assert cost.references(cfgs) == {half: teacher, method: teacher}
    assert cost.references({teacher: config(), other: config(), method: config(full='a/absent.py')}) == {
        other: teacher, method: teacher}
    assert cost.references({teacher: config()}) == {}


def test_savings_in_words():
    rows = [dict.fromkeys(cost.COLUMNS) | dict(config=name, parameters=parameters, gmac=2., cpu_ms=ms)
            for name, parameters, ms in (('scnn', 200, 9.), ('enet', 10, 2.), ('wide', 300, 18.))]
    cost.compare(rows, dict(enet='scnn', wide='scnn'))
    text = '\n'.join(cost.tables(rows))
    assert '| 95.0 % fewer | 0.0 % fewer | 4.50x as fast |' in text.replace('  ', '')
    assert '50.0 % more' in text and '0.50x as fast' in text and 'GPU' not in text
    lines = cost.table(rows, cost.COLUMNS)
    assert len({len(line) for line in lines}) == 1 and len(lines) == 5


@pytest.mark.parametrize('inputs, text', [
    (dict(points=torch.zeros(1200, 4), voxel_coords=torch.zeros(3, 4), batch_size=1), '1,200 points, 3 voxels'),
    (dict(images=torch.zeros(1, 6, 3, 8, 9), labels=torch.zeros(1, 8, 9)), '8 x 9'),
    (dict(images=torch.zeros(1, 6, 3, 8, 9), cam_to_img=torch.zeros(1, 6, 3, 3), bev_aug=torch.zeros(1, 4, 4)),
     '6 times 8 x 9'),
    (torch.zeros(2, 5), 'inputs 2 x 5'), (dict(latents=[torch.zeros(7)]), 'latents 7'), ({}, '')])
def test_input_in_words(inputs, text):
    assert cost.describe_input(inputs) == text


def test_bad_arguments(tmp_path):
    with pytest.raises(ConfigError, match='--samples 0 --rounds 5 came'):
        cost.run(arguments('configs/lanes/enet_culane.py', '--samples', '0'))
    with pytest.raises(ConfigError, match='threads=0'):
        cost.run(arguments('configs/lanes/enet_culane.py', '--threads', '0', '--out', tmp_path))
    with pytest.raises(ConfigError, match='no such file'):
        cost.run(arguments('configs/lidarseg/minkunet_kiti.py', '--out', tmp_path))
