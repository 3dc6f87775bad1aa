"""Groups, costs and surgery of real nets: exact to the last digit, and equal where the removed channels are silent."""
import copy
import json

import numpy as np
import pytest
import torch
from torch import nn

from perception.common.measure import count_model_macs, processor
from perception.common.nets.center_head import CenterHead
from perception.common.nets.pillars import PillarEncoder
from perception.common.nets.second import SECOND, SECONDFPN
from perception.crowd.models.centerpoint import CenterPoint
from perception.lanes.models.agnostic import AgnosticLaneNet
from perception.lanes.models.enet import ENet
from perception.lanes.models.erfnet import ERFNet
from perception.lanes.models.pspnet import PSPNet
from perception.lanes.models.resnet_seg import ResNetSeg
from perception.lanes.models.scnn import SCNN
from perception.lidarseg.models.cylinder3d import Cylinder3D
from perception.lidarseg.models.minkunet import MinkUNet
from perception.lidarseg.models.spvcnn import SPVCNN
from perception.prune import latency
from perception.prune.cost import CostModel, measure_places
from perception.prune.graph import discover, silenced, tensors_of
from perception.prune.models.classifier import ImageClassifier
from perception.prune.search import PEEL
from perception.utils.errors import CheckpointError, ConfigError
from perception.utils.structure import apply_structure
from tests.prune.conftest import images, rows, running, trained

pytest.importorskip('torch_pruning')
LANES = dict(num_lanes=2, num_classes=3, input_size=(32, 64))
HEAD = dict(type=CenterHead, tasks=[['person']], stride=2, shared_channels=8, head_channels=8)


def center_point() -> CenterPoint:
    return CenterPoint(
        (0, -3.2, -2, 6.4, 3.2, 1.2), (0.2, 0.2, 3.2), dict(type=PillarEncoder, channels=(8,)),
        dict(type=SECOND, channels=(8, 16), layers=(1, 1), strides=(2, 2)),
        dict(type=SECONDFPN, channels=(8, 8), strides=(1, 2)), HEAD)


def points() -> dict:
    generator = torch.Generator().manual_seed(0)
    return dict(points=[torch.rand(300, 4, generator=generator) * torch.tensor([6.4, 6.4, 2, 1])
                        - torch.tensor([0, 3.2, 1, 0])])


NETS = {  # residual, depth-wise, gated, concatenated, transposed, sparse nets; groups, groups that stay whole
    'resnet18': (lambda: ImageClassifier(net='resnet18', num_classes=5, width=0.25), images, 12, 0),
    'mobilenet_v2': (lambda: ImageClassifier(net='mobilenet_v2', num_classes=5, width=0.25), images, None, 0),
    'mobilenet_v3_small': (lambda: ImageClassifier(net='mobilenet_v3_small', num_classes=5, width=0.5), images, None,
                           0),
    'erfnet': (lambda: ERFNet(base_channels=8, **LANES), images, None, 4),
    'resnet18_lanes': (lambda: ResNetSeg(base_channels=8, **LANES), images, None, 1),
    'pspnet': (lambda: PSPNet(depth=18, base_channels=8, channels=16, **LANES), images, None, 1),
    'scnn': (lambda: SCNN(backbone='resnet18', base_channels=8, **LANES), images, None, 2),
    'agnostic': (lambda: AgnosticLaneNet(backbone='resnet18', base_channels=8, input_size=(32, 64)), images, None, 1),
    'centerpoint': (center_point, points, None, 1),
    'cylinder3d': (lambda: Cylinder3D(base_channels=4, compression=8, point_channels=16, point_widths=(8, 16, 32),
                                      refine='mirror'), rows, 40, 0),
    'minkunet': (lambda: MinkUNet(width=0.25, blocks=(1,) * 8), rows, None, 0),
    'spvcnn': (lambda: SPVCNN(width=0.25, blocks=(1,) * 8, voxel_head=True), rows, None, 0)}

RATIOS = dict(scnn=0.98)  # messages between 128 channels, which stay, are most of so small a net
IGNORED = dict(erfnet=['exist'])  # which fail the trial, at the cost of many


@pytest.mark.parametrize('name', NETS)
def test_widths_costs_and_outputs(name):
    make, inputs, groups, kept = NETS[name]
    torch.manual_seed(0)
    model, run = trained(make()), running(inputs())
    ratio = RATIOS.get(name, 0.5)
    found = PEEL(dict(ratio=ratio), divisor=2, ignore=IGNORED.get(name, ())).search(model, [run])
    graph, structure = found.graph, found.structure
    assert len(graph.kept) == kept and (groups is None or len(graph.groups) == groups)
    assert structure['macs']['final'] <= ratio * structure['macs']['full'] == ratio * count_model_macs(model, run)
    slim = silenced(copy.deepcopy(model), graph.groups, {group['name']: group['keep'] for group in structure['groups']})
    with torch.no_grad():
        before = tensors_of(run(slim))
        apply_structure(slim, structure)
        after = tensors_of(run(slim))
    assert all(one.shape == other.shape and float((one - other).abs().max()) <= 1e-5 * float(one.abs().max())
               for one, other in zip(before, after))
    assert count_model_macs(slim, run) == structure['macs']['final']
    assert sum(p.numel() for p in slim.parameters()) == structure['params']['final']
    weights = model.state_dict()
    for key, value in slim.state_dict().items():
        assert value.numel() <= weights[key].numel()
    given = [group['share'] for group in structure['groups'] if group['role'] != 'squeeze']  # that follows gets none
    assert sum(given) == pytest.approx(1) and all(group['importance'] > 0 for group in structure['groups'])
    json.dumps(structure)


@pytest.mark.parametrize(('net', 'groups', 'macs', 'parameters'), [
    ('resnet18', 12, 1_814_073_344, 11_689_512), ('resnet50', 37, 4_089_184_256, 25_557_032),
    ('mobilenet_v2', 25, 300_774_272, 3_504_872), ('mobilenet_v3_small', 27, 56_510_400, 2_542_856),
    ('efficientnet_b0', 40, 385_814_752, 5_288_548)])
def test_published_sizes(net, groups, macs, parameters):
    model = ImageClassifier(net=net).eval()
    run, small = running(images(224, 224)), running(images(32, 32))
    places = measure_places(model, [run])
    found = discover(model, small)
    cost = CostModel(model, found.groups, places)
    assert len(found.groups) == groups and not found.kept
    assert cost.number('macs', cost.full) == macs
    assert cost.number('params', cost.full) == sum(p.numel() for p in model.parameters()) == parameters
    if net.startswith('resnet'):
        assert found.groups[1 if net == 'resnet18' else 3].role in ('inner', 'stream')


@pytest.mark.parametrize('extra_stage', [False, True])  # ENet-SAD's joins two streams
def test_enet_keeps_the_channels_whose_places_its_decoder_uses(extra_stage):
    """Streams that are padded with zeros or unpooled stay whole, the inner widths of the blocks go."""
    model = trained(ENet(num_lanes=0, num_classes=3, input_size=(32, 32), extra_stage=extra_stage))
    run = running(images(32, 32))
    ignore = [r'stem', r'down\d\.expand', r'stage\d\.\d\.expand', r'decoder\.up\d\.(main|expand)']
    found = PEEL(divisor=2, ignore=ignore, target=dict(ratio=0.6)).search(model, [run])
    assert {group.name.rsplit('.', 2)[-2] for group in found.graph.groups} <= {'reduce', 'conv'}
    slim = apply_structure(copy.deepcopy(model), found.structure)
    assert count_model_macs(slim, run) == found.structure['macs']['final']


class Encoder(nn.Module):
    """SECOND and its pyramid: strided, transposed, three joined."""

    def __init__(self):
        super().__init__()
        self.backbone, self.neck = SECOND(8, (8, 16, 16), (1, 1, 1), (1, 2, 2)), SECONDFPN((8, 16, 16), (8, 8, 8))
        self.head = nn.Conv2d(24, 5, 1)

    def forward(self, x):
        return self.head(self.neck(self.backbone(x)))


def test_joined_and_transposed_maps_of_an_encoder():
    model, x = trained(Encoder()), torch.randn(1, 8, 16, 16)

    def run(net):
        return net(x)
    found = PEEL(divisor=2).search(model, [run])
    slim = silenced(copy.deepcopy(model), found.graph.groups,
                    {group['name']: group['keep'] for group in found.structure['groups']})
    with torch.no_grad():
        before = run(slim)
        apply_structure(slim, found.structure)
        assert (run(slim) - before).abs().max() <= 1e-5 * before.abs().max()
    assert slim.head.in_channels == sum(m.out_channels for m in slim.neck.modules()
                                        if isinstance(m, (nn.ConvTranspose2d, nn.Conv2d))) < 24
    assert count_model_macs(slim, run) == found.structure['macs']['final']


def norm_free() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
                         nn.Flatten(), nn.Linear(32 * 16, 20), nn.ReLU(), nn.Linear(20, 4))


def test_a_net_without_norms_is_scored_by_its_filters_and_flattened_maps_are_followed():
    model, x = norm_free(), torch.randn(1, 3, 4, 4)
    found = PEEL(divisor=4).search(model, [lambda net: net(x)])
    assert len(found.unnormalised) == len(found.graph.groups) == 3
    slim = apply_structure(copy.deepcopy(model), found.structure)
    assert slim[5].in_features == 16 * slim[2].out_channels == slim[5].weight.shape[1]
    assert count_model_macs(slim, lambda net: net(x)) == found.structure['macs']['final']


@pytest.mark.parametrize(('kind', 'pool'), [
    ('bn_mean', 'params'), ('bn_active', 'macs'), ('l2', 'macs'), ('taylor', 'params')])
def test_every_importance_and_pool(kind, pool):
    model, inputs = trained(ImageClassifier(net='resnet18', num_classes=5, width=0.125)), images(32, 32)

    def losses():
        yield model(inputs, mode='tensor')['logits'].square().sum()
    found = PEEL(divisor=2, importance=dict(kind=kind), reallocation=dict(pool=pool)).search(
        model, [running(inputs)], losses)
    assert found.structure['macs']['final'] <= found.structure['target']['value']
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(('method', 'kind'), [
    ('peel', 'params'), ('peel', 'activations'), ('uniform', 'macs'), ('shuffled', 'params'), ('slimming', 'macs')])
def test_every_method_keeps_every_budget(method, kind):
    model, run = trained(ImageClassifier(net='mobilenet_v2', num_classes=5, width=0.25)), running(images(32, 32))
    found = PEEL(target=dict(kind=kind, ratio=0.7), divisor=4).search(model, [run], method=method)
    assert found.structure[kind]['final'] <= 0.7 * found.structure[kind]['full']
    assert found.structure['method'] == method
    share, importance = (np.array([group[key] for group in found.structure['groups']]) for key in (
        'share', 'importance'))
    wanted = importance / importance.sum() if method in ('peel', 'shuffled') else 0 * importance  # others have no pool
    assert np.allclose(np.sort(share), np.sort(wanted)) and np.allclose(share, wanted) == (method != 'shuffled')
    assert found.seconds[1] < 1


def test_the_uniform_control_is_uniform_whatever_the_backbone():
    model, run = trained(ImageClassifier(net='resnet18', num_classes=5, width=0.125)), running(images(32, 32))
    plain, deep = (PEEL(divisor=2, backbone=dict(kind=kind)).search(model, [run], method='uniform').structure
                   for kind in ('uniform', 'linear'))
    assert [group['final'] for group in plain['groups']] == [group['final'] for group in deep['groups']]


def test_a_budget_of_time_is_read_off_a_table(tmp_path, monkeypatch):
    def steady(module, inputs):
        outs, ins, table = measured(module, inputs)
        assert len(table) == len(outs) and all(len(row) == len(ins) and min(row) > 0 for row in table)
        return outs, ins, [[0.01 + 1e-4 * out * into for into in ins] for out in outs]

    measured = latency._measured
    monkeypatch.setattr(latency, '_measured', steady)  # whatever else this machine does
    monkeypatch.setattr(latency, 'from_root', lambda path: tmp_path / 'latency.json')
    model, run = trained(ImageClassifier(net='resnet18', num_classes=5, width=0.125)), running(images(32, 32))
    found = PEEL(target=dict(kind='latency', ratio=0.8), divisor=2).search(model, [run])
    assert 0 < found.structure['latency']['final'] <= 0.8 * found.structure['latency']['full']
    table = json.loads((tmp_path / 'latency.json').read_text())
    assert len(table) == 1 and len(next(iter(table.values()))) > 5
    name, _, rest = next(iter(table)).partition(', torch ')  # another processor has times of its own
    assert name == processor() and 'threads, ' in rest and 'load' not in rest
    (tmp_path / 'latency.json').write_text('{"half of')  # a kill has left
    PEEL(target=dict(kind='latency', ratio=0.8), divisor=2).search(model, [run])
    assert json.loads((tmp_path / 'latency.json').read_text()) == table


@pytest.mark.parametrize(('change', 'error', 'named'), [
    (dict(target=dict(ratio=0.001)), ConfigError, 'least'),
    (dict(target=dict(ratio=0.5, value=3)), ConfigError, 'ratio=0.5 and value=3'),
    (dict(target=dict(kind='flops', ratio=0.5)), ConfigError, 'flops'),
    (dict(target=dict(rate=0.5)), ConfigError, 'rate'),
    (dict(ignore=['net.backbne.stage1']), ConfigError, 'net.backbone.stage1'),
    (dict(ignore=['(']), ConfigError, 'regular expression'),
    (dict(importance=dict(kind='bn_man')), ConfigError, 'bn_mean'),
    (dict(importance=dict(kind='taylor')), ConfigError, 'train_dataloader'),
    (dict(reallocation=dict(alpha=-1)), ConfigError, 'alpha=-1'),
    (dict(backbone=dict(kind='linear', ends=(0, 1))), ConfigError, r'ends=\(0, 1\)'),
    (dict(backbone=dict(rho=1.5)), ConfigError, 'rho=1.5')])
def test_what_cannot_be_asked_is_refused(change, error, named):
    model = trained(ImageClassifier(net='resnet18', num_classes=5, width=0.125))
    with pytest.raises(error, match=named):
        PEEL(**change).search(model, [running(images(32, 32))])


@pytest.mark.parametrize(('value', 'named'), [(0.0, 'are 0'), (float('nan'), 'not finite')])
def test_scales_that_say_nothing_are_refused(value, named):
    model = trained(ImageClassifier(net='resnet18', num_classes=5, width=0.125))
    run, peel = running(images(32, 32)), PEEL(divisor=2)
    graph = discover(model, run)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.fill_(value)
    with pytest.raises((CheckpointError, ConfigError), match=named):
        from perception.prune.importance import channel_scores
        channel_scores(model, graph.groups, peel.importance['kind'])


def test_frozen_norms_are_told(caplog):
    model = trained(ImageClassifier(net='resnet18', num_classes=5, width=0.125))
    model.net.backbone.stem[1].requires_grad_(False)
    with pytest.MonkeyPatch.context() as patch:
        said = []
        patch.setattr('perception.prune.search.print_log', lambda text, *_: said.append(text))
        PEEL(divisor=2).search(model, [running(images(32, 32))])
    assert any('1 batch norms are frozen' in text for text in said)


class Recurrent(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.conv, self.cell = nn.Conv2d(3, 8, 3), cell

    def forward(self, x):
        return self.cell(self.conv(x).mean(dim=(2, 3)))[0]


def test_what_an_ignored_layer_reads_stays_whole():
    graph = discover(Recurrent(nn.LSTM(8, 4)).eval(), lambda net: net(torch.ones(1, 3, 8, 8)), ['cell'])
    assert not graph.groups


class Idle(nn.Module):
    def __init__(self, ever=True):
        super().__init__()
        self.conv, self.head, self.extra = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1), nn.Conv2d(8, 4, 1)
        self.ever = ever

    def forward(self, x):
        x = self.conv(x)
        return (self.head(x), self.extra(x)) if self.training and self.ever else self.head(x)


def test_branches_that_only_training_has_become_slim_too():
    model, x = Idle().eval(), torch.ones(1, 3, 8, 8)
    found = PEEL(divisor=2).search(model, [lambda net: net(x)])
    slim = apply_structure(model, found.structure).train()
    assert slim(x)[1].shape[1] == 4 and slim.extra.in_channels == slim.conv.out_channels < 8
    assert found.structure['macs']['full'] == 36 * 8 * (27 + 2)  # of what tests run


class Cut(nn.Module):
    """Joins two maps by a convolution whose kernel it cuts in two, as DHA does, so that the layer itself never runs."""

    def __init__(self):
        super().__init__()
        self.inner, self.conv = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
        self.fuse, self.last, self.head = nn.Conv2d(8, 6, 1, bias=False), nn.Conv2d(6, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.conv(self.inner(x).relu())
        left, right = self.fuse.weight.split(4, dim=1)
        return self.head(self.last(nn.functional.conv2d(x, left) + nn.functional.conv2d(x, right)).relu())


def test_a_layer_whose_weights_are_computed_with_outside_of_it_stays_whole():
    torch.manual_seed(0)
    model = Cut().eval()
    with torch.no_grad():  # as searches run
        graph = discover(model, lambda net: net(torch.ones(1, 3, 8, 8)))
    assert {group.name for group in graph.groups} == {'inner', 'last'}
    assert graph.kept['fuse'] == 'its weights are computed with outside of it' and 'conv' in graph.kept


@pytest.mark.parametrize(('model', 'named'), [
    (Recurrent(nn.LSTMCell(8, 4)), 'cell is a LSTMCell'), (Recurrent(nn.LSTM(8, 4)), 'cell is a LSTM'),
    (Idle(ever=False).eval(), 'extra')])
def test_what_cannot_be_pruned_is_refused_by_name(model, named):
    with pytest.raises(ConfigError, match=named):
        discover(model, lambda net: net(torch.ones(1, 3, 8, 8)))
