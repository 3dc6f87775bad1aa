"""The key maps and layouts of published checkpoints; the authors' outputs themselves are in test_cylinder3d.py."""
import itertools
import json
import re
import subprocess
import sys
from functools import partial

import pytest
import torch
from mmengine.registry import DefaultScope

from perception.apis.config import load_config, parse_options
from perception.common.structures import PointSegSample
from perception.lidarseg.convert.cylinder3d import convert_cylinder3d, matching_config
from perception.lidarseg.models.cylinder3d import Cylinder3D
from perception.lidarseg.preprocessor import CylinderVoxelizer
from perception.registry import MODELS
from perception.utils.checkpoint import load_weights
from perception.utils.errors import CheckpointError, ConfigError

A, B = 'cylinder_3d_generator.', 'cylinder_3d_spconv_seg.'


@pytest.fixture(scope='module')
def published(shared):
    """Names and shapes of the authors' nets, by width."""
    shapes = json.loads((shared / 'goldens/lidarseg/cylinder3d_full_statedict_shapes.json').read_text())
    return {16 if 'init_size16' in name else 32: entry for name, entry in shapes.items()}


def norm(name, channels):
    return {f'{name}.weight': (channels,), f'{name}.bias': (channels,), f'{name}.running_mean': (channels,),
            f'{name}.running_var': (channels,), f'{name}.num_batches_tracked': ()}


def pvkd_shapes(i=2, c=3, out=6, classes=5):
    """The names of a released file, written down from its description rather than from the converter's table."""
    shapes = norm(f'{A}PPmodel.0', 9)
    for k, (a, b) in {1: (9, 64), 4: (64, 128), 7: (128, 256), 10: (256, out)}.items():
        shapes |= {f'{A}PPmodel.{k}.weight': (b, a), f'{A}PPmodel.{k}.bias': (b,)}
        shapes |= norm(f'{A}PPmodel.{k + 1}', b) if k < 10 else {}
    shapes |= {f'{A}fea_compression.0.weight': (c, out), f'{A}fea_compression.0.bias': (c,)}
    phi_z, rho_z = (1, 3, 3), (3, 1, 3)
    blocks = {'downCntx': (c, i, phi_z, rho_z)}
    blocks |= {f'resBlock{n}': (i * 2 ** (n - 2), i * 2 ** (n - 1), rho_z, phi_z) for n in (2, 3, 4, 5)}
    for name, (a, b, first, second) in blocks.items():
        for conv, bn, kernel, width in (('conv1', 'bn0', first, a), ('conv1_2', 'bn0_2', second, b),
                                        ('conv2', 'bn1', second, a), ('conv3', 'bn2', first, b)):
            shapes |= {f'{B}{name}.{conv}.weight': (*kernel, width, b), **norm(f'{B}{name}.{bn}', b)}
        if name != 'downCntx':
            shapes[f'{B}{name}.pool.weight'] = (3, 3, 3, b, b)
    for n, (a, b) in enumerate([(16 * i, 16 * i), (16 * i, 8 * i), (8 * i, 4 * i), (4 * i, 2 * i)]):
        for conv, bn, kernel, width in (('trans_dilao', 'trans_bn', (3, 3, 3), a), ('conv1', 'bn1', phi_z, b),
                                        ('conv2', 'bn2', rho_z, b), ('conv3', 'bn3', (3, 3, 3), b)):
            shapes |= {f'{B}upBlock{n}.{conv}.weight': (*kernel, width, b), **norm(f'{B}upBlock{n}.{bn}', b)}
        shapes[f'{B}upBlock{n}.up_subm.weight'] = (3, 3, 3, b, b)
    for conv, bn, kernel in (('conv1', 'bn0', (3, 1, 1)), ('conv1_2', 'bn0_2', (1, 3, 1)),
                             ('conv1_3', 'bn0_3', (1, 1, 3))):
        shapes |= {f'{B}ReconNet.{conv}.weight': (*kernel, 2 * i, 2 * i), **norm(f'{B}ReconNet.{bn}', 2 * i)}
    return shapes | {f'{B}logits.weight': (3, 3, 3, 4 * i, classes), f'{B}logits.bias': (classes,)}


def random_weights(shapes):
    torch.manual_seed(0)
    return {name: torch.rand(shape) * .5 + .1 if shape else torch.tensor(17) for name, shape in shapes.items()}


def mmdet3d_names(pvkd):
    """The same weights as mmdet3d 1.4 names them, its ignored class last."""
    rules = [(r'^cylinder_3d_generator\.PPmodel\.0\.', 'voxel_encoder.pre_norm.'),
             (r'^cylinder_3d_generator\.PPmodel\.10\.', 'voxel_encoder.vfe_layers.3.'),
             (r'^cylinder_3d_generator\.fea_compression\.', 'voxel_encoder.compression_layers.'),
             (r'^cylinder_3d_spconv_seg\.logits\.', 'decode_head.conv_seg.'),
             (r'^cylinder_3d_spconv_seg\.(downCntx|resBlock.|ReconNet|upBlock.)', 'backbone.\\1')]
    rules += [(rf'^cylinder_3d_generator\.PPmodel\.{3 * k + 1 + j}\.', f'voxel_encoder.vfe_layers.{k}.{j}.')
              for k in range(3) for j in (0, 1)]
    inner = {'conv1': 'conv0_0', 'bn0': 'bn0_0', 'conv1_2': 'conv0_1', 'bn0_2': 'bn0_1', 'conv2': 'conv1_0',
             'bn1': 'bn1_0', 'conv3': 'conv1_1', 'bn2': 'bn1_1'}
    context = {'conv1': 'conv1', 'bn0': 'bn1', 'conv1_2': 'conv2', 'bn0_2': 'bn2', 'conv1_3': 'conv3', 'bn0_3': 'bn3'}
    out = {}
    for name, value in pvkd.items():
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        parts = name.split('.')
        if parts[0] == 'backbone':
            block = parts[1]
            if block.startswith('upBlock'):
                parts[1] = f'up_block_list.{3 - int(block[-1])}'
                parts[2] = {'trans_dilao': 'trans_conv'}.get(parts[2], parts[2])
            else:
                parts[2] = (context if block == 'ReconNet' else inner).get(parts[2], parts[2])
                parts[1] = {'downCntx': 'down_context', 'ReconNet': 'ddcm'}.get(block) or \
                    f'down_block_list.{int(block[-1]) - 2}'
        if parts[0] == 'decode_head':
            value = torch.cat([value[..., 1:], value[..., :1]], dim=-1)
        out['.'.join(parts)] = value
    return out


def spconv2_layout(weights):
    return {name: value.permute(4, 0, 1, 2, 3) if value.dim() == 5 else value for name, value in weights.items()}


def load_as_told(root, usage, weights):
    """Build the config with its options, as the tools do, and load."""
    path, _, options = usage.partition(' --cfg-options ')
    load_weights(MODELS.build(load_config(root / path, options=parse_options(options.split())).model), weights)


def same(ours, theirs):
    assert list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_description_agrees_with_the_published_names(published):
    for width, entry in published.items():
        ours = {name: list(shape) for name, shape in pvkd_shapes(width, width, 256, 20).items()}
        assert ours == entry['keys']


@pytest.mark.parametrize('sizes, classes', [((16, 16, 256), 26), ((16, 16, 128), 17), ((48, 48, 256), 20),
                                            ((48, 32, 256), 20)])
def test_other_widths_of_pvkd_are_read_from_the_shapes(sizes, classes, root):
    """0.5x of multi-scan SemanticKITTI and of nuScenes; 1.5x, whose config was never released."""
    base, compression, points = sizes
    source = {name: torch.zeros(()).expand(shape) for name, shape in
              pvkd_shapes(base, compression, points, classes).items()}
    weights, arguments = convert_cylinder3d(source)
    assert (arguments['base_channels'], arguments['compression'], arguments['point_channels']) == sizes
    assert arguments['num_classes'] == classes - 1
    load_as_told(root, matching_config(arguments), weights)


@pytest.mark.parametrize(('width', 'config'), [(16, 'cylinder3d_half_kitti.py'), (32, 'cylinder3d_kitti.py')])
def test_published_sizes_are_recognised(published, width, config):
    source = {name: torch.zeros(()).expand(shape) for name, shape in published[width]['keys'].items()}
    weights, arguments = convert_cylinder3d(source)
    assert arguments == dict(num_classes=19, base_channels=width, compression=width, point_channels=256,
                             point_widths=[64, 128, 256], refine=None, indice_sharing='legacy')
    assert matching_config(arguments) == (f'configs/lidarseg/{config} --cfg-options model.refine=None '
                                          'model.indice_sharing=legacy')
    with torch.device('meta'):
        expected = Cylinder3D(**arguments).state_dict()
    assert {name: value.shape for name, value in weights.items()} == {n: v.shape for n, v in expected.items()}


@pytest.mark.parametrize('sharing', ['legacy', 'correct'])
def test_all_names_and_layouts_give_the_same_weights(sharing):
    pvkd = random_weights(pvkd_shapes())
    weights, arguments = convert_cylinder3d(pvkd, sharing)
    Cylinder3D(**arguments).load_state_dict(weights)
    assert arguments['num_classes'] == 4 and arguments['base_channels'] == 2
    same(convert_cylinder3d(spconv2_layout(pvkd), sharing)[0], weights)
    same(convert_cylinder3d(mmdet3d_names(pvkd), sharing)[0], weights)
    same(convert_cylinder3d(dict(meta={}, state_dict=spconv2_layout(mmdet3d_names(pvkd))), sharing)[0], weights)
    same(convert_cylinder3d({f'module.{name}': value for name, value in pvkd.items()}, sharing)[0], weights)


def test_kernels_and_classes_by_hand():
    pvkd = random_weights(pvkd_shapes())
    legacy, correct = convert_cylinder3d(pvkd)[0], convert_cylinder3d(pvkd, 'correct')[0]
    old = pvkd[f'{B}logits.weight']
    new = legacy['head.weight']
    assert new.shape == (5, 3, 3, 3, 8)
    for c in range(5):
        assert torch.equal(new[c - 1], old[..., c])  # class c is our c - 1, "unlabelled" is last
    assert torch.equal(legacy['head.bias'][4], pvkd[f'{B}logits.bias'][0])
    old = pvkd[f'{B}upBlock2.conv3.weight']
    assert torch.equal(legacy['backbone.up2.convs.2.conv.weight'], old[:1].permute(4, 0, 1, 2, 3))
    assert torch.equal(correct['backbone.up2.convs.2.conv.weight'], old.permute(4, 0, 1, 2, 3))
    old = pvkd[f'{B}resBlock3.conv2.weight']  # declared (1, 3, 3), computed as (3, 1, 3)
    new = legacy['backbone.stage2.block.branch2.0.conv.weight']
    assert new.shape == (8, 3, 1, 3, 4) and torch.equal(new[:, 2, 0, 1], old[0, 2, 1].T)


def test_unused_slices_with_nan_are_left_out_and_used_ones_refused():
    pvkd = random_weights(pvkd_shapes())
    for n in range(4):
        pvkd[f'{B}upBlock{n}.conv3.weight'][1:] = float('nan')
    weights, _ = convert_cylinder3d(pvkd)
    assert all(value.isfinite().all() for value in weights.values())
    with pytest.raises(CheckpointError, match=r"upBlock0\.conv3\.weight: NaN.*indice_sharing='legacy'"):
        convert_cylinder3d(pvkd, 'correct')
    pvkd[f'{B}upBlock1.conv3.weight'][0, 0, 0] = float('nan')
    with pytest.raises(CheckpointError, match=r'upBlock1\.conv3\.weight: NaN in a kernel slice that is used'):
        convert_cylinder3d(pvkd)


def test_other_bad_files_are_refused():
    pvkd = random_weights(pvkd_shapes())
    with pytest.raises(CheckpointError, match='expected `cylinder_3d_generator'):
        convert_cylinder3d({'backbone.conv1.weight': torch.zeros(3)})
    missing = {name: value for name, value in pvkd.items() if 'resBlock4.pool' not in name}
    with pytest.raises(CheckpointError, match=r': 1 missing \(cylinder_3d_spconv_seg\.resBlock4\.pool\.weight\) of 27'):
        convert_cylinder3d(missing)
    with pytest.raises(CheckpointError, match=r': 1 unexpected \(extra\) of 27'):
        convert_cylinder3d(dict(pvkd, extra=torch.zeros(1)))
    with pytest.raises(CheckpointError, match=r'logits\.bias is missing'):
        convert_cylinder3d({name: value for name, value in pvkd.items() if 'logits' not in name})
    wide = dict(pvkd, **{f'{B}resBlock2.pool.weight': torch.zeros(3, 3, 3, 5, 4)})
    with pytest.raises(CheckpointError, match=r': 1 mis-shaped \(cylinder_3d_spconv_seg\.resBlock2\.pool\.weight '
                                              r'\(3, 3, 3, 5, 4\) for \(3, 3, 3, 4, 4\)\)'):
        convert_cylinder3d(wide)
    cut = dict(pvkd, **{f'{B}resBlock2.conv1.weight': torch.zeros(1, 1, 3, 2, 4)})
    with pytest.raises(CheckpointError, match=r'resBlock2\.conv1\.weight \(1, 1, 3, 2, 4\) for \(3, 1, 3, 2, 4\)'):
        convert_cylinder3d(cut)
    both = dict(missing, **{f'{B}resBlock2.pool.weight': torch.zeros(3, 3, 3, 5, 4)}, extra=torch.zeros(1))
    with pytest.raises(CheckpointError, match=r'1 missing \(.*1 unexpected \(extra\), 1 mis-shaped'):
        convert_cylinder3d(both)
    flat = dict(pvkd, **{f'{B}logits.weight': torch.zeros(3)})
    with pytest.raises(CheckpointError, match=r'logits\.weight has the shape \(3,\)'):
        convert_cylinder3d(flat)
    none = dict(pvkd, **{f'{B}logits.weight': torch.zeros(3, 3, 3, 2, 5)})
    with pytest.raises(CheckpointError, match=r"'base_channels': 0.*expected positive"):
        convert_cylinder3d(none)
    with pytest.raises(ConfigError, match="indice_sharing='both'"):
        convert_cylinder3d(pvkd, 'both')


def test_three_outputs_do_not_confuse_the_layouts():
    pvkd = random_weights(pvkd_shapes(classes=3))
    same(convert_cylinder3d(pvkd)[0], convert_cylinder3d(spconv2_layout(pvkd))[0])


def test_files_with_other_names_are_read_by_position(published):
    """As the authors' nuScenes trainer loads them."""
    order = list(published[32]['keys'])
    pvkd = random_weights(pvkd_shapes())
    pvkd = {name: pvkd[name] for name in order}
    renamed = {f'net.layer{number}': value for number, value in enumerate(pvkd.values())}
    same(convert_cylinder3d(renamed)[0], convert_cylinder3d(pvkd)[0])
    with pytest.raises(CheckpointError, match=r'net\.layer0, .*expected .* or the 274 weights of the former'):
        convert_cylinder3d(dict(list(renamed.items())[:-1]))
    swapped = dict(renamed, **{'net.layer1': renamed['net.layer6'], 'net.layer6': renamed['net.layer1']})
    with pytest.raises(CheckpointError, match=r'2 mis-shaped'):
        convert_cylinder3d(swapped)


def test_files_without_batch_counters_are_taken():
    pvkd = {name: value for name, value in random_weights(pvkd_shapes()).items() if 'num_batches' not in name}
    weights, arguments = convert_cylinder3d(pvkd)
    assert not Cylinder3D(**arguments).load_state_dict(weights).missing_keys


def test_the_tool_writes_what_the_net_loads(root, tmp_path):
    torch.save(random_weights(pvkd_shapes()), tmp_path / 'theirs.pt')
    run = subprocess.run([sys.executable, root / 'tools/convert_checkpoint.py', tmp_path / 'theirs.pt',
                          tmp_path / 'ours.pth'], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    usage = run.stdout.splitlines()[-1].removeprefix('use with: ')
    load_as_told(root, usage, torch.load(tmp_path / 'ours.pth', weights_only=True))
    net = Cylinder3D(base_channels=2, compression=3, point_channels=6, num_classes=4, indice_sharing='legacy')
    net.load_state_dict(torch.load(tmp_path / 'ours.pth', weights_only=True))
    voxelizer = CylinderVoxelizer((24, 18, 8))
    data = voxelizer(dict(inputs=dict(points=[torch.randn(80, 4) * 5]), data_samples=[PointSegSample()]))
    with torch.no_grad():
        assert net.eval()(**data, mode='predict')[0].pred_labels.shape == (80,)


# --- mmdet3d's own classes ------------------------------------------------------------------------------------------
def slow_pairs(indices, batch_size, spatial_shape, ksize, stride, padding, dilation, out_padding, subm, transpose,
               grid=None):
    """mmcv's rule book, whose own code needs a GPU: output voxels, (K, 2, n) rows in and out, and their counts."""
    cells = list(itertools.product(*map(range, ksize)))
    rows = {tuple(voxel): row for row, voxel in enumerate(indices.tolist())}
    pairs, outs = [[] for _ in cells], dict(rows) if subm else {}
    padding = [k // 2 for k in ksize] if subm else padding
    shape = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip(spatial_shape, padding, ksize, stride)]
    for voxel, row in rows.items():
        for number, cell in enumerate(cells):
            place = [c + p - k for c, p, k in zip(voxel[1:], padding, cell)]
            if any(c % s for c, s in zip(place, stride)):
                continue
            out = (voxel[0], *(c // s for c, s in zip(place, stride)))
            if subm and out in outs:
                pairs[number].append((row, outs[out]))
            elif not subm and all(0 <= c < n for c, n in zip(out[1:], shape)):
                pairs[number].append((row, outs.setdefault(out, len(outs))))
    counts = torch.tensor([len(pair) for pair in pairs])
    book = torch.full((len(cells), 2, len(rows)), -1)
    for number, pair in enumerate(pairs):
        book[number, :, :len(pair)] = torch.tensor(pair, dtype=torch.int64).reshape(-1, 2).T
    return torch.tensor(list(outs), dtype=torch.int32).reshape(-1, 4), book, counts


def slow_conv(features, filters, pairs, counts, num_out, inverse=False):
    """As many slices of the kernel as the rule book has, whichever layer made it."""
    filters = filters.flatten(0, 2)
    out = features.new_zeros(num_out, filters.shape[2])
    for number, count in enumerate(counts.tolist()):
        source, target = (pairs[number, 1 if inverse else 0, :count], pairs[number, 0 if inverse else 1, :count])
        out.index_add_(0, target, features[source] @ filters[number])
    return out


def slow_maximum(points, coords):
    voxels, rows = torch.unique(coords, dim=0, return_inverse=True)
    return torch.stack([points[rows == row].amax(0) for row in range(len(voxels))]), voxels


def test_mmdet3d_computes_the_same_with_the_same_weights(monkeypatch):
    """Encoder, backbone and head of mmdet3d, as they are; only mmcv's operators are replaced by slow ones."""
    models = pytest.importorskip('mmdet3d.models')
    pytest.importorskip('mmdet.models')
    sparse = pytest.importorskip('mmcv.ops.sparse_conv')
    monkeypatch.setattr(sparse.ops, 'get_indice_pairs', slow_pairs)
    monkeypatch.setattr(sparse.Fsp, 'indice_subm_conv', slow_conv)
    monkeypatch.setattr(sparse.Fsp, 'indice_conv', slow_conv)
    monkeypatch.setattr(sparse.Fsp, 'indice_inverse_conv', partial(slow_conv, inverse=True))
    torch.manual_seed(0)
    grid = (12, 10, 8)
    norm_cfg = dict(type='BN1d', eps=1e-5, momentum=0.1)
    with DefaultScope.overwrite_default_scope('mmdet3d'):  # whatever run came before in this process
        theirs = torch.nn.ModuleDict(dict(
            voxel_encoder=models.voxel_encoders.SegVFE(
                feat_channels=[8, 8, 8, 6], in_channels=6, with_voxel_center=True, grid_shape=grid, feat_compression=3),
            backbone=models.backbones.Asymm3DSpconv(grid, 3, 2, norm_cfg=norm_cfg),
            decode_head=models.decode_heads.Cylinder3DHead(
                channels=8, num_classes=5, loss_lovasz=dict(type='LovaszLoss', reduction='none')))).eval()
    del theirs['voxel_encoder'].vfe_scatter
    theirs['voxel_encoder'].vfe_scatter = slow_maximum
    for name, value in theirs.state_dict().items():
        if 'running_mean' in name or name.endswith('.bias'):
            value.normal_(std=.1)
        elif name.endswith('.weight') and value.dim() == 5:
            value.mul_(2)  # so that the signal does not vanish on its way
    voxelizer = CylinderVoxelizer(grid)
    points = torch.randn(60, 4) * torch.tensor([9, 9, 1, .5])
    data = voxelizer(dict(inputs=dict(points=[points]), data_samples=None))['inputs']
    coords = data['voxel_coords'][data['point_to_voxel']]
    with torch.no_grad():
        feats, voxels = theirs['voxel_encoder'](data['point_feats'][:, 3:].float(), coords)
        expected = theirs['decode_head'](theirs['backbone'](feats, voxels, 1)).features
    weights, arguments = convert_cylinder3d(theirs.state_dict())
    net = Cylinder3D(**arguments)
    net.load_state_dict(weights)
    with torch.no_grad():
        found = net.eval()(data)['voxel_logits']
    assert torch.equal(voxels, data['voxel_coords']) and float(expected.std(0).mean()) > .01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_tool_refuses_what_is_no_checkpoint(root, tmp_path):
    (tmp_path / 'bad.pt').write_bytes(b'no checkpoint')
    run = subprocess.run([sys.executable, root / 'tools/convert_checkpoint.py', tmp_path / 'bad.pt',
                          tmp_path / 'o.pth'], capture_output=True, text=True)
    assert run.returncode and 'bad.pt: unreadable' in run.stderr and not (tmp_path / 'o.pth').exists()
