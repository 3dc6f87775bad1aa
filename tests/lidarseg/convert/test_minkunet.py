"""Published MinkUNet, SPVCNN and SPVNAS weights: converted, they give what a slow net gives that reads them.

The slow net is written from the descriptions of the projects: dictionaries of voxels, kernels in the order of each
library, names of each file. Goldens of the authors' own code are in test_minkunet.py.
"""
import argparse
import itertools
import json
import re
import subprocess
import sys

import pytest
import torch

from perception.apis.config import load_config, parse_options
from perception.lidarseg.convert import cylinder3d, minkunet, spvnas
from perception.lidarseg.convert.minkunet import NETS as CHOICES
from perception.lidarseg.convert.minkunet import PROJECTS, SPCONV1, convert_minkunet, find_origins
from perception.lidarseg.convert.spvnas import convert_spvnas, spvnas_usage
from perception.lidarseg.models.minkunet import MinkUNet
from perception.lidarseg.models.spvcnn import SPVCNN
from perception.lidarseg.models.spvnas import NETS, SPVNAS, read_net_config, to_net_config
from perception.ops.sparse.tensor import SparseTensor
from perception.registry import MODELS
from perception.utils.checkpoint import load_weights
from perception.utils.errors import CheckpointError, ConfigError

WIDEST = (32, 48, 96, 192, 384, 384, 192, 128, 128)


# --- the slow net ----------------------------------------------------------------------------------------------------
class Slow:
    """A sparse tensor: voxels in cells of the finest level, their features, the cells between two of them."""

    def __init__(self, voxels, feats, stride=1):
        self.voxels, self.feats, self.stride = voxels, feats, stride
        self.rows = {voxel: row for row, voxel in enumerate(voxels)}

    def like(self, feats):
        return Slow(self.voxels, feats, self.stride)


def offsets(size, first_fastest):
    cells = [0, 1] if size == 2 else [-1, 0, 1]
    triples = list(itertools.product(cells, repeat=3))
    return [cell[::-1] for cell in triples] if first_fastest else triples


def shifted(voxel, cell, step):
    return tuple(c + d * step for c, d in zip(voxel, cell))


def same_voxels(x, kernel):
    """Sub-manifold convolution, its kernel (27, in, out) or (in, out)."""
    if kernel.dim() == 2:
        return x.like(x.feats @ kernel)
    out = torch.zeros(len(x.voxels), kernel.shape[2], dtype=kernel.dtype)
    for cell, weight in zip(offsets(3, True), kernel):
        for row, voxel in enumerate(x.voxels):
            near = x.rows.get(shifted(voxel, cell, x.stride))
            if near is not None:
                out[row] += x.feats[near] @ weight
    return x.like(out)


def coarser(x, kernel, order):
    step = 2 * x.stride
    voxels = sorted({tuple(c // step * step for c in voxel) for voxel in x.voxels})
    out = torch.zeros(len(voxels), kernel.shape[2], dtype=kernel.dtype)
    for row, voxel in enumerate(voxels):
        for cell, weight in zip(order, kernel):
            near = x.rows.get(shifted(voxel, cell, x.stride))
            if near is not None:
                out[row] += x.feats[near] @ weight
    return Slow(voxels, out, step)


def finer(x, kernel, target, order):
    out = torch.zeros(len(target.voxels), kernel.shape[2], dtype=kernel.dtype)
    for row, voxel in enumerate(target.voxels):
        base = tuple(c // x.stride * x.stride for c in voxel)
        cell = tuple((c - b) // target.stride for c, b in zip(voxel, base))
        out[row] = x.feats[x.rows[base]] @ kernel[order.index(cell)]
    return target.like(out)


def to_points(x, points):
    out = torch.zeros(len(points), x.feats.shape[1], dtype=x.feats.dtype)
    for row, point in enumerate(points):
        base = tuple(c // x.stride * x.stride for c in point)
        total = 0
        for cell in itertools.product((0, 1), repeat=3):
            near = x.rows.get(shifted(base, cell, x.stride))
            if near is not None:
                weight = 1.0
                for c, b, d in zip(point, base, cell):
                    part = (c - b) / x.stride
                    weight *= part if d else 1 - part
                out[row] += weight * x.feats[near]
                total += weight
        out[row] /= total
    return out


def to_voxels(x, points, feats):
    sums, counts = torch.zeros(len(x.voxels), feats.shape[1], dtype=feats.dtype), torch.zeros(len(x.voxels), 1)
    for point, feat in zip(points, feats):
        row = x.rows[tuple(c // x.stride * x.stride for c in point)]
        sums[row] += feat
        counts[row] += 1
    return x.like(sums / counts)


class Weights:
    """A published state dict, read by its names.

    Args:
        names: what the project calls things, see `PROJECT_NAMES`.
        cut: of the super-net, name of a layer -> (kept inputs, kept outputs).
        even: order of the eight offsets.
    """

    def __init__(self, state, names, cut=None, first_fastest=False):
        self.state, self.names, self.cut = state, names, cut or {}
        self.order = offsets(2, first_fastest)

    def kernel(self, name):
        value = self.state[f'{name}.{self.names["leaf"]}'].double()
        value = self.names.get('offsets', lambda v: v)(value)
        inputs, outputs = self.cut.get(name, (slice(None), slice(None)))
        return value[..., inputs, :][..., outputs]

    def norm(self, name, x):
        w, b, mean, var = (self.state[f'{name}.{leaf}'].double()[:x.shape[1]]
                           for leaf in ('weight', 'bias', 'running_mean', 'running_var'))
        return (x - mean) / (var + 1e-5).sqrt() * w + b

    def linear(self, name, x):
        outputs = self.cut.get(name, (None, slice(None)))[1]
        weight, bias = self.state[f'{name}.weight'].double(), self.state[f'{name}.bias'].double()
        return x @ weight[outputs, :x.shape[1]].T + bias[outputs]

    def block(self, name, x):
        conv1, norm1, conv2, norm2, shortcut, shortcut_norm = (f'{name}.{part}' for part in self.names['block'])
        y = same_voxels(x, self.kernel(conv1))
        y = same_voxels(x.like(self.norm(norm1, y.feats).relu()), self.kernel(conv2))
        y, skip = self.norm(norm2, y.feats), x.feats
        if f'{shortcut}.{self.names["leaf"]}' in self.state:
            skip = self.norm(shortcut_norm, same_voxels(x, self.kernel(shortcut)).feats)
        return x.like((y + skip).relu())

    def run(self, x, depths, point_branch):
        names = self.names
        for conv, norm in names['stem']:
            x = x.like(self.norm(norm, same_voxels(x, self.kernel(conv)).feats).relu())
        levels, points = [x], x.voxels
        for n in range(4):
            conv, norm = (f'{names["down"](n)}.{part}' for part in names['pair'])
            x = coarser(x, self.kernel(conv), self.order)
            x = x.like(self.norm(norm, x.feats).relu())
            for j in range(depths[n]):
                x = self.block(names['down_block'](n, j), x)
            levels.append(x)
        feats = self.mixed(0, x, points, levels[0].feats) if point_branch else None
        x = to_voxels(x, points, feats) if point_branch else x
        for n in range(4):
            conv, norm = (f'{names["up"](n)}.{part}' for part in names['pair'])
            target = levels[3 - n]
            x = finer(x, self.kernel(conv), target, self.order)
            x = x.like(torch.cat([self.norm(norm, x.feats).relu(), target.feats], dim=1))
            for j in range(depths[4 + n]):
                x = self.block(names['up_block'](n, j), x)
            if point_branch and n in (1, 3):
                feats = self.mixed(1 + n // 2, x, points, feats)
                x = to_voxels(x, points, feats) if n == 1 else x
        return self.linear(names['head'], feats if point_branch else x.feats)

    def mixed(self, k, x, points, feats):
        linear, norm = self.names['points'](k)
        return to_points(x, points) + self.norm(norm, self.linear(linear, feats)).relu()


def plain(block):
    return [f'{block}.{part}' for part in ('0', '1')]


BLOCK = ['net.0', 'net.1', 'net.3', 'net.4', 'downsample.0', 'downsample.1']
MIT = dict(leaf='kernel', stem=[('stem.0', 'stem.1'), ('stem.3', 'stem.4')], pair=('0', '1'), block=BLOCK,
           down=lambda n: f'stage{n + 1}.0.net', up=lambda n: f'up{n + 1}.0.net',
           down_block=lambda n, j: f'stage{n + 1}.{j + 1}', up_block=lambda n, j: f'up{n + 1}.1.{j}',
           points=lambda k: plain(f'point_transforms.{k}'), head='classifier.0')
MMDET3D = dict(down_block=lambda n, j: f'backbone.encoder.{n}.{j + 1}', head='decode_head.conv_seg',
               up_block=lambda n, j: f'backbone.decoder.{n}.1.{j}',
               points=lambda k: plain(f'backbone.point_transforms.{k}'))
NET = dict(MMDET3D, leaf='kernel', down=lambda n: f'backbone.encoder.{n}.0.net',
           up=lambda n: f'backbone.decoder.{n}.0.net')
TORCHSPARSE = dict(NET, stem=[plain(f'backbone.conv_input.{k}.net') for k in (0, 1)], pair=('0', '1'), block=BLOCK)
MINKOWSKI = dict(NET, stem=[(f'backbone.conv_input.{k}.net.0', f'backbone.conv_input.{k}.net.1.bn') for k in (0, 1)],
                 pair=('0', '1.bn'), block=['conv1', 'norm1.bn', 'conv2', 'norm2.bn', 'downsample.net.0',
                                            'downsample.net.1.bn'])
SPCONV = dict(MMDET3D, leaf='weight', stem=[plain(f'backbone.conv_input.{k}') for k in (0, 1)], pair=('0', '1'),
              down=lambda n: f'backbone.encoder.{n}.0', up=lambda n: f'backbone.decoder.{n}.0',
              block=['conv1', 'bn1', 'conv2', 'bn2', 'downsample.0', 'downsample.1'])


def spconv1_offsets(value):
    """(k, k, k, in, out), the first axis that of x, as (K, in, out) in the orders of TorchSparse."""
    size = value.shape[0]
    if size == 1:
        return value[0, 0, 0]
    cells = offsets(size, first_fastest=size == 3)
    return torch.stack([value[tuple(c + (size == 3) for c in cell)] for cell in cells])


def spvnas_names(layers, bn, linear):
    up = {'down': 'downsample', 'up': 'upsample'}
    convs = [f'net.{layers}{k}.net.{part}' for k in (0, 1) for part in ('conv', bn)]
    return dict(leaf='kernel', stem=MIT['stem'], pair=('net.conv', f'net.{bn}'),
                block=[*convs, 'downsample.net.conv', f'downsample.net.{bn}'],
                down=lambda n: f'{up["down"]}.{n}.transition', up=lambda n: f'{up["up"]}.{n}.transition',
                down_block=lambda n, j: f'{up["down"]}.{n}.feature.{layers}{j}',
                up_block=lambda n, j: f'{up["up"]}.{n}.feature.{layers}{j}',
                points=lambda k: (f'point_transforms.{k}.net.{linear}', f'point_transforms.{k}.net.{bn}'),
                head='classifier.linear')


SPECIALISED = spvnas_names('', 'bn', 'conv')
SUPER_NET = spvnas_names('layers.', 'bn.bn', 'conv.linear')


# --- state dicts, written down from the descriptions -----------------------------------------------------------------
class Maker:
    """Random weights by name."""

    def __init__(self, names, shape3d):
        self.names, self.shape3d, self.state = names, shape3d, {}
        self.generator = torch.Generator().manual_seed(0)

    def tensor(self, *shape):
        return torch.rand(shape, generator=self.generator) * .5 - .2

    def conv(self, name, inside, out, size):
        scale = (inside * size ** 3) ** .5 / 2
        self.state[f'{name}.{self.names["leaf"]}'] = self.tensor(*self.shape3d(inside, out, size)) / scale

    def norm(self, name, width):
        for leaf in ('weight', 'bias', 'running_mean'):
            self.state[f'{name}.{leaf}'] = self.tensor(width)
        self.state[f'{name}.running_var'] = self.tensor(width).abs() + .5
        self.state[f'{name}.num_batches_tracked'] = torch.tensor(17)

    def linear(self, name, inside, out):
        self.state[f'{name}.weight'], self.state[f'{name}.bias'] = self.tensor(out, inside), self.tensor(out)

    def block(self, name, inside, hidden, out, project):
        conv1, norm1, conv2, norm2, shortcut, shortcut_norm = (f'{name}.{part}' for part in self.names['block'])
        self.conv(conv1, inside, hidden, 3)
        self.norm(norm1, hidden)
        self.conv(conv2, hidden, out, 3)
        self.norm(norm2, out)
        if project:
            self.conv(shortcut, inside, out, 1)
            self.norm(shortcut_norm, out)

    def net(self, stem, levels, point_branch, classes=5, project_first=False, head=None):
        """`levels`: (transition, [(hidden, out), ...]) of four levels down and four up."""
        for (conv, norm), inside in zip(self.names['stem'], (4, stem)):
            self.conv(conv, inside, stem, 3)
            self.norm(norm, stem)
        skips, width = [stem], stem
        for n, (transition, blocks) in enumerate(levels):
            side, n, skip = ('down', n, 0) if n < 4 else ('up', n - 4, skips[7 - n])
            conv, norm = (f'{self.names[side](n)}.{part}' for part in self.names['pair'])
            self.conv(conv, width, transition, 2)
            self.norm(norm, transition)
            width = transition + skip
            for j, (hidden, out) in enumerate(blocks):
                self.block(self.names[f'{side}_block'](n, j), width, hidden, out,
                           width != out or (project_first and j == 0))
                width = out
            skips.append(width)
        if point_branch:
            widths = [stem, skips[4], skips[6], skips[8]]
            for k in range(3):
                linear, norm = self.names['points'](k)
                self.linear(linear, widths[k], widths[k + 1])
                self.norm(norm, widths[k + 1])
        self.linear(self.names['head'], head or width, classes)
        return self.state


def offset_shape(inside, out, size):
    return (size ** 3, inside, out) if size > 1 else (inside, out)


def minkunet_levels(width, blocks=(2,) * 8):
    w = [int(width * c) for c in (32, 32, 64, 128, 256, 256, 128, 96, 96)]
    down = [(w[n], [(w[n + 1], w[n + 1])] * blocks[n]) for n in range(4)]
    return w[0], down + [(w[n + 1], [(w[n + 1], w[n + 1])] * blocks[n]) for n in range(4, 8)]


@pytest.fixture(scope='module')
def scene():
    """Some voxels, with a few neighbours each, and their features."""
    generator = torch.Generator().manual_seed(1)
    walk = torch.randint(-1, 2, (90, 3), generator=generator).cumsum(0)
    voxels = sorted({tuple(v) for v in (walk - walk.amin(0)).tolist()})
    return voxels, torch.randn(len(voxels), 4, generator=generator, dtype=torch.float64)


def ours(model, scene):
    voxels, feats = scene
    coords = torch.tensor([(0, *voxel) for voxel in voxels])
    grid = tuple(16 * (int(c) // 16 + 1) for c in coords[:, 1:].amax(0))
    with torch.no_grad():
        points, _ = model.double().eval().run_backbone(SparseTensor(feats, coords, grid, 1))
        return model.head(points).feats


def slow_input(scene):
    return Slow(scene[0], scene[1])


def close(a, b):
    assert float(b.std()) > .02  # the net does something
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


# --- MinkUNet and SPVCNN ---------------------------------------------------------------------------------------------
CASES = {'mit-han-lab MinkUNet': (MIT, offset_shape, {}, False),
         'mit-han-lab SPVCNN': (MIT, offset_shape, {}, True),
         'mmdet3d TorchSparse MinkUNet': (TORCHSPARSE, offset_shape, {}, False),
         'mmdet3d TorchSparse SPVCNN': (TORCHSPARSE, offset_shape, {}, True),
         'mmdet3d MinkowskiEngine': (MINKOWSKI, offset_shape, dict(first_fastest=True), False),
         'mmdet3d spconv 1': (dict(SPCONV, offsets=spconv1_offsets), lambda a, b, k: (k, k, k, a, b), {}, False)}


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('blocks', [(2,) * 8, (1, 2, 3, 1, 2, 1, 1, 2)])
def test_converted_weights_compute_what_the_published_ones_do(case, blocks, scene):
    names, shape3d, order, points = CASES[case]
    state = Maker(names, shape3d).net(*minkunet_levels(.125, blocks), points)
    weights, usage = convert_minkunet(dict(state_dict={f'module.{name}': value for name, value in state.items()}))
    model = (SPVCNN if points else MinkUNet)(width=.125, blocks=blocks, num_classes=5)
    model.load_state_dict(weights)
    close(ours(model, scene), Weights(state, names, **order).run(slow_input(scene), blocks, points))
    assert usage.startswith(f'configs/lidarseg/{"spvcnn" if points else "minkunet"}_kitti.py --cfg-options '
                            'model.width=0.125')
    assert ('model.blocks=1,2,3,1,2,1,1,2' in usage) == (blocks[0] == 1) and usage.endswith('model.num_classes=5')


def test_point_transforms_that_minkunet_holds_unused_are_left_out(scene):
    state = Maker(MIT, offset_shape).net(*minkunet_levels(.125), True)
    assert 'spvcnn' in convert_minkunet(state)[1]
    weights, usage = convert_minkunet(state, net='minkunet')
    unused = dict(state, **{'point_transforms.0.1.num_batches_tracked': torch.tensor(0)})
    assert 'minkunet' in convert_minkunet(unused)[1] and 'spvcnn' in convert_minkunet(unused, net='spvcnn')[1]
    assert all(torch.equal(value, weights[name]) for name, value in convert_minkunet(unused)[0].items())
    model = MinkUNet(width=.125, num_classes=5)
    model.load_state_dict(weights)
    assert 'minkunet' in usage
    close(ours(model, scene), Weights(state, MIT).run(slow_input(scene), (2,) * 8, False))
    with pytest.raises(ConfigError, match="net='mink'.*Did you mean minkunet"):
        convert_minkunet(state, net='mink')


@pytest.mark.parametrize('blocks', [(2,) * 8, (2, 3, 4, 6, 2, 2, 2, 2)])
def test_mmdet3d_and_spconv_compute_the_same_with_the_same_weights(scene, blocks):
    """mmdet3d's own MinkUNet on spconv 2: its names, its shapes, its outputs."""
    backbones = pytest.importorskip('mmdet3d.models.backbones')
    spconv = pytest.importorskip('spconv.pytorch')
    torch.manual_seed(0)
    theirs = backbones.MinkUNetBackbone(
        base_channels=4, encoder_channels=[4, 8, 16, 32], decoder_channels=[32, 16, 12, 12],
        encoder_blocks=list(blocks[:4]), decoder_blocks=list(blocks[4:]), sparseconv_backend='spconv').eval()
    for layer in theirs.modules():
        if hasattr(layer, 'algo'):
            layer.algo = spconv.ConvAlgo.Native  # a build for CUDA chooses one that no CPU has
    for name, value in theirs.state_dict().items():
        if 'running_mean' in name or name.endswith('.bias'):
            value.normal_(std=.1)
    state = {f'backbone.{name}': value for name, value in theirs.state_dict().items()}
    state |= {'decode_head.conv_seg.weight': torch.randn(5, 12), 'decode_head.conv_seg.bias': torch.randn(5)}
    voxels = [*scene[0], (15, 31, 31)]  # mmdet3d takes the grid from the last voxel, spconv drops an odd last plane
    voxels = sorted({v for v in voxels if v[0] < 16 and v[1] < 32 and v[2] < 32})
    feats = torch.randn(len(voxels), 4)
    coords = torch.tensor([(0, *v) for v in voxels], dtype=torch.int32)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        expected = theirs(feats, coords) @ state['decode_head.conv_seg.weight'].T + state['decode_head.conv_seg.bias']
    torch.set_num_threads(threads)
    weights, usage = convert_minkunet(state)
    model = MinkUNet(width=.125, blocks=blocks, num_classes=5)
    model.load_state_dict(weights)
    assert 'minkunet_kitti' in usage
    assert float(expected.std()) > .1
    torch.testing.assert_close(ours(model, (voxels, feats.double())).float(), expected, rtol=1e-3, atol=1e-4)


def test_spconv_1_and_2_differ_by_their_axes_alone():
    """But for kernels of one cell, which spconv 2 reads as plain (in, out) buffers."""
    state = Maker(SPCONV, lambda a, b, k: (k, k, k, a, b)).net(*minkunet_levels(.125), False)
    two = {}
    for name, value in state.items():
        if value.dim() == 5:
            permuted = value.permute(4, 0, 1, 2, 3)
            value = value.reshape(permuted.shape) if value.shape[0] == 1 else permuted
        two[name] = value
    one, other = convert_minkunet(state)[0], convert_minkunet(two)[0]
    assert all(torch.equal(one[name], other[name]) for name in one)


def published_shapes(net, project, width, layout=None):
    names, usual = PROJECTS[project]
    with torch.device('meta'):
        origins = find_origins(net(width=width), names, layout or usual)
    return {origin.name: torch.zeros(()).expand(origin.shape) for origin in origins.values()}


@pytest.mark.parametrize('project', PROJECTS)
@pytest.mark.parametrize('width, config', [(.5, '_half_kitti.py'), (.64, '_kitti.py --cfg-options model.width=0.64'),
                                           (1.0, '_kitti.py')])
def test_published_widths_are_recognised_and_load_into_their_configs(project, width, config, root):
    layout = SPCONV1 if project.endswith('spconv') else None
    weights, usage = convert_minkunet(published_shapes(MinkUNet, project, width, layout))
    assert usage == f'configs/lidarseg/minkunet{config}'
    load_as_told(root, usage, weights)


def load_as_told(root, usage, weights):
    path, _, options = usage.partition(' --cfg-options ')
    cfg = load_config(root / path, options=parse_options(options.split()))
    load_weights(MODELS.build(cfg.model), weights)


def test_names_are_those_of_the_authors_code(shared):
    """The key maps that were made by running the projects themselves."""
    for net, kind in (('minkunet', MinkUNet), ('spvcnn', SPVCNN)):
        facts = json.loads((shared / f'goldens/lidarseg/{net}_A.json').read_text())
        found = set(published_shapes(kind, 'mit-han-lab', .125))
        assert {name for name in facts['state_dict_keys'] if net == 'spvcnn' or not name.startswith('point')} == found
        for library, project in (('torchsparse', 'mmdet3d with TorchSparse'), ('spconv', 'mmdet3d with spconv')):
            pairs = dict(facts.get(f'keymap_mit_to_mmdet3d_{library}', []))
            expected = {f'backbone.{pairs[name.rpartition(".")[0]]}.{name.rpartition(".")[2]}'
                        for name in found if name.rpartition('.')[0] in pairs}
            theirs = {re.sub(r'(?<=\.)weight$', 'kernel', name) if value.dim() == 5 else name
                      for name, value in published_shapes(kind, project, .125).items()}
            assert not expected or expected == {name for name in theirs if name.startswith('backbone.')}


def test_wrong_files_are_named_by_all_that_does_not_fit():
    state = Maker(MIT, offset_shape).net(*minkunet_levels(.125), False)
    wrong = {name: value for name, value in state.items() if not name.startswith('stage3.2.net.3')}
    wrong['stem.0.kernel'] = wrong['stem.0.kernel'][..., :3]
    wrong['extra.weight'] = torch.zeros(2)
    message = (r'convert_minkunet \(mit-han-lab\): 1 missing \(stage3\.2\.net\.3\.kernel\), 1 unexpected '
               r'\(extra\.weight\), 1 mis-shaped \(stem\.0\.kernel \(27, 4, 3\) for \(27, 4, 4\)\) of 296 weights of '
               r'MinkUNet of width 0\.125')
    with pytest.raises(CheckpointError, match=message):
        convert_minkunet(wrong)
    few = {name: value for name, value in state.items() if not name.startswith(('up4', 'up3', 'stage'))}
    with pytest.raises(CheckpointError, match=r'175 missing \(stage1\.0\.net\.0\.kernel, .*, \.\.\.\)'):
        convert_minkunet(few)
    with pytest.raises(CheckpointError, match='classifier.0.weight is missing'):
        convert_minkunet({name: value for name, value in state.items() if 'classifier' not in name})
    with pytest.raises(CheckpointError, match='backbone.layer1.weight, expected MinkUNet'):
        convert_minkunet({'backbone.layer1.weight': torch.zeros(3)})
    second = Maker(TORCHSPARSE, offset_shape).net(*minkunet_levels(.125), False)
    second['decode_head.conv_seg.weight'] = torch.zeros(19, 480)
    with pytest.raises(CheckpointError, match='MinkUNetBackboneV2'):
        convert_minkunet(second)


# --- SPVNAS ----------------------------------------------------------------------------------------------------------
def released_config():
    """The entries of SPVNAS@65GMACs: transition, hidden and output width of each block; unused ones are there too."""
    outs = [32, 24, 52, 188, 232, 140, 152, 96, 76]
    stages = {'downsample.0': (16, 2, [44, 36], [24, 24]), 'downsample.1': (44, 2, [80, 68], [52, 52]),
              'downsample.2': (84, 2, [64, 68], [188, 188]), 'downsample.3': (152, 2, [116, 96], [232, 232]),
              'upsample.0': (188, 2, [140, 248], [140, 140]), 'upsample.1': (104, 1, [64, 64], [152, 128]),
              'upsample.2': (48, 2, [104, 56], [96, 96]), 'upsample.3': (64, 1, [112, 48], [76, 80])}
    values = dict(output_channels=outs)
    for stage, (transition, depth, hidden, out) in stages.items():
        values |= {f'{stage}.transition': transition, f'{stage}.feature': depth}
        for j in (0, 1):
            values |= {f'{stage}.feature.layers.{j}.net': 2, f'{stage}.feature.layers.{j}.net.layers.0': hidden[j],
                       f'{stage}.feature.layers.{j}.net.layers.1': out[j]}
        values[f'{stage}.feature.layers.0.downsample'] = out[0]
    return values | {'point_transforms.0': 232, 'point_transforms.1': 152, 'point_transforms.2': 76, 'pres': .05,
                     'vres': .05, 'num_classes': 19}


def small_config():
    """Widths small enough for the slow net."""
    values = released_config()
    values['output_channels'] = [6, 4, 8, 6, 10, 12, 6, 8, 4]
    for name in values:
        if name.endswith('.transition'):
            values[name] = 4 + 2 * int(name[-12])
        elif name.endswith('net.layers.0'):
            values[name] = 6
    for name in [n for n in values if n.startswith('point') or n.endswith(('layers.1', 'downsample'))]:
        del values[name]
    return values


def levels_of(values):
    outs, levels = values['output_channels'], []
    for n, stage in enumerate(f'{side}.{k}' for side in ('downsample', 'upsample') for k in range(4)):
        hidden = [values[f'{stage}.feature.layers.{j}.net.layers.0'] for j in range(values[f'{stage}.feature'])]
        levels.append((values[f'{stage}.transition'], [(h, outs[n + 1]) for h in hidden]))
    return levels


def test_the_released_net_has_its_published_size(tmp_path):
    path = tmp_path / 'net.config'
    path.write_text(json.dumps(released_config()))
    with torch.device('meta'):
        for net in ('65GMACs', str(path), released_config()):
            model = SPVNAS(net=net)
            assert sum(p.numel() for p in model.parameters()) == 10_788_891  # 10.79 million
    assert read_net_config(to_net_config(NETS['65GMACs'])) == NETS['65GMACs']


def test_a_specialised_net_computes_what_the_published_one_does(scene):
    values = small_config()
    state = Maker(SPECIALISED, offset_shape).net(6, levels_of(values), True, project_first=True, head=128)
    weights, arguments = convert_spvnas(dict(state_dict=state))
    assert read_net_config(arguments['net']) == read_net_config(values) and arguments['num_classes'] == 5
    assert convert_spvnas(state, values)[1] == arguments
    model = SPVNAS(**arguments)
    model.load_state_dict(weights)
    depths = [values[f'{side}sample.{n}.feature'] for side in ('down', 'up') for n in range(4)]
    close(ours(model, scene), Weights(state, SPECIALISED).run(slow_input(scene), depths, True))


def super_net():
    levels = [(WIDEST[n], [(WIDEST[n + 1], WIDEST[n + 1])] * 2) for n in range(4)]
    levels += [(WIDEST[n + 1], [(WIDEST[n + 1], WIDEST[n + 1])] * 2) for n in range(4, 8)]
    return Maker(SUPER_NET, offset_shape).net(32, levels, True, head=128)


def super_net_cut(values):
    """Kept inputs and outputs of each layer, as the authors choose them when the net runs."""
    outs, cut = values['output_channels'], {}
    width = outs[0]
    for n, (transition, blocks) in enumerate(levels_of(values)):
        side, k = ('down', n) if n < 4 else ('up', n - 4)
        name = SUPER_NET[side](k)
        cut[f'{name}.net.conv'] = slice(width), slice(transition)
        kept = list(range(transition))
        if side == 'up':
            kept += range(WIDEST[n + 1], WIDEST[n + 1] + outs[3 - k])
        for j, (hidden, out) in enumerate(blocks):
            block = SUPER_NET[f'{side}_block'](k, j)
            cut[f'{block}.net.layers.0.net.conv'] = kept, slice(hidden)
            cut[f'{block}.net.layers.1.net.conv'] = slice(hidden), slice(out)
            cut[f'{block}.downsample.net.conv'] = kept, slice(out)
            kept, width = slice(out), out
    cut |= {SUPER_NET['points'](k)[0]: (None, slice(outs[stage])) for k, stage in enumerate((4, 6, 8))}
    return cut


def test_a_net_taken_from_the_super_net_computes_what_it_does_there(scene):
    values, state = dict(small_config(), output_channels=[32, 4, 8, 6, 10, 12, 6, 8, 4]), super_net()
    weights, arguments = convert_spvnas(state, values)
    model = SPVNAS(**arguments)
    model.load_state_dict(weights)
    depths = [values[f'{side}sample.{n}.feature'] for side in ('down', 'up') for n in range(4)]
    close(ours(model, scene),
          Weights(state, SUPER_NET, super_net_cut(values)).run(slow_input(scene), depths, True))
    with pytest.raises(ConfigError, match='without widths.*--net-config'):
        convert_spvnas(state)
    with pytest.raises(ConfigError, match='a stem of 6, expected 32'):
        convert_spvnas(state, small_config())


def test_wrong_spvnas_files_are_named_by_all_that_does_not_fit():
    state = Maker(SPECIALISED, offset_shape).net(6, levels_of(small_config()), True, project_first=True, head=128)
    wrong = {name: value for name, value in state.items() if name != 'upsample.2.feature.1.net.0.net.conv.kernel'}
    wrong['classifier.linear.weight'] = torch.zeros(5, 76)
    with pytest.raises(CheckpointError, match=r'1 missing \(upsample\.2\.feature\.1\.net\.0\.net\.conv\.kernel\), '
                                              r'1 mis-shaped \(classifier\.linear\.weight \(5, 76\) for \(5, 128\)\)'):
        convert_spvnas(wrong)
    del wrong['downsample.1.transition.net.bn.weight']  # then its widths cannot be read
    with pytest.raises(CheckpointError, match=r'missing \(.*mis-shaped \(.* of SPVNAS 65GMACs'):
        convert_spvnas(wrong)
    with pytest.raises(CheckpointError, match=r'mis-shaped'):
        convert_spvnas(state, '65GMACs')
    with pytest.raises(CheckpointError, match='expected SPVNAS of mit-han-lab'):
        convert_spvnas({'stem.0.kernel': torch.zeros(3)})


@pytest.mark.parametrize('change, problem', [
    (lambda v: v.pop('upsample.2.transition'), r'upsample\.2\.transition is missing, expected a whole number from 1'),
    (lambda v: v.update(output_channels=[32, 24]), r'output_channels=\[32, 24\], expected 9 widths'),
    (lambda v: v.update(output_channels='123456789'), r"output_channels\[0\] is '1'"),
    (lambda v: v.update(output_channels=[32, 24, 52, 188, 232, 140, 152, 96, 760]), r'output_channels\[8\] is 760'),
    (lambda v: v.pop('output_channels'), r'without output_channels.*not that of the super-net'),
    (lambda v: v.update({'downsample.0.transitoin': 3}), r'downsample\.0\.transitoin.*Did you mean downsample'),
    (lambda v: v.update({'downsample.4.feature': 3}), r'unknown entries downsample\.4\.feature \(1\)'),
    (lambda v: v.update({'downsample.0.feature': 3}), r'downsample\.0\.feature is 3, expected .* from 1 to 2'),
    (lambda v: v.update({'downsample.1.feature.layers.0.net': 3}), r'layers\.0\.net=3, expected 2'),
    (lambda v: v.update({'downsample.1.feature.layers.0.net.layers.0': 16.0}), r'is 16\.0, expected a whole number'),
    (lambda v: v.update({'downsample.1.feature.layers.0.downsample': 50}), r'is 50, expected 52 as output_channels\[2'),
    (lambda v: v.update({'point_transforms.1': True}), r'point_transforms\.1 is True, expected 152'),
    (lambda v: v.update(vres=.1), r'pres=0\.05 and vres=0\.1, expected equal')])
def test_each_wrong_entry_of_a_net_config_gets_a_sentence(change, problem, tmp_path):
    values, path = released_config(), tmp_path / 'net.config'
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=f'{re.escape(str(path))}: .*{problem}'):
        SPVNAS(net=str(path))
    with pytest.raises(ConfigError, match=f'net.config: .*{problem}'):
        SPVNAS(net=values)


@pytest.mark.parametrize('text, problem', [('{"output_channels": [', 'cannot be read'), ('[1, 2]', 'a list without'),
                                           ('"x"', 'a str without'), ('{}', 'entries none'), ('[' * 5000, 'cannot be')])
def test_a_file_that_is_no_net_config_gets_a_sentence(text, problem, tmp_path):
    (tmp_path / 'net.config').write_text(text)
    with pytest.raises(ConfigError, match=problem):
        SPVNAS(net=tmp_path / 'net.config')
    with pytest.raises(ConfigError, match='net=5, expected one of'):
        SPVNAS(net=5)
    with pytest.raises(ConfigError, match='cannot be read.*Is a directory'):
        SPVNAS(net=tmp_path)


# --- what the tool asks a converter ----------------------------------------------------------------------------------
def test_each_file_fits_one_converter_and_becomes_weights_with_their_usage(tmp_path):
    converters = (cylinder3d, minkunet, spvnas)
    options = argparse.Namespace(source='a.pt', target=str(tmp_path / 'ours.pth'), net='minkunet', net_config=None)
    mink = published_shapes(MinkUNet, 'mit-han-lab', 1.0, None)
    nas = Maker(SPECIALISED, offset_shape).net(6, levels_of(small_config()), True, project_first=True, head=128)
    for weights, converter in ((mink, minkunet), (nas, spvnas)):
        assert [one for one in converters if one.fits(weights)] == [converter]
    weights, usage = minkunet.convert(mink, options)
    assert usage.startswith('configs/lidarseg/minkunet_') and set(weights) == set(convert_minkunet(mink)[0])
    _, usage = spvnas.convert(nas, options)
    assert f'model.net={tmp_path / "ours.net.config"}' in usage
    assert json.loads((tmp_path / 'ours.net.config').read_text()) == convert_spvnas(nas)[1]['net']
    assert not any(one.fits({'backbone.conv1.weight': torch.zeros(3)}) for one in converters)
    assert tuple(minkunet.OPTIONS['--net']['choices']) == tuple(CHOICES)


# --- the tool --------------------------------------------------------------------------------------------------------
def tool(root, *arguments):
    return subprocess.run([sys.executable, root / 'tools/convert_checkpoint.py', *map(str, arguments)],
                          capture_output=True, text=True, cwd=root)


def test_the_tool_converts_spvnas_and_says_how_to_use_it(root, tmp_path):
    state = Maker(SPECIALISED, offset_shape).net(6, levels_of(small_config()), True, project_first=True, head=128)
    torch.save(dict(model=state), tmp_path / 'init')
    run = tool(root, tmp_path / 'init', tmp_path / 'ours.pth')
    assert run.returncode == 0, run.stderr
    usage = run.stdout.splitlines()[-1].removeprefix('use with: ')
    assert str(tmp_path / 'ours.net.config') in usage
    load_as_told(root, usage, torch.load(tmp_path / 'ours.pth', weights_only=True))


def test_the_released_net_loads_into_its_config(root):
    with torch.device('meta'):
        model = SPVNAS()
    weights = {name: torch.zeros(value.shape) for name, value in model.state_dict().items()}
    load_as_told(root, spvnas_usage(dict(net='65GMACs', num_classes=19), ''), weights)
