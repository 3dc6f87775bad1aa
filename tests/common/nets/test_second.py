"""Against recorded outputs of mmdet3d's SECOND and SECONDFPN, and the shapes of its published weights."""
import json

import numpy as np
import pytest
import torch
from torch import nn

from perception.common.nets.center_head import CenterHead
from perception.common.nets.fpn import FPN
from perception.common.nets.second import SECOND, SECONDFPN
from perception.utils.errors import ConfigError

VARIANTS = ('pillar', 'voxel')


@pytest.fixture(scope='module')
def recorded(shared):
    with np.load(shared / 'goldens/detection/pillar_second_backbone_A.npz') as file:
        return dict(file)


@pytest.fixture(scope='module')
def published(shared):
    return json.loads((shared / 'goldens/detection/pillar_second_state_dict_shapes_A.json').read_text())


def net_of(arrays, variant):
    config = json.loads(str(arrays[f'{variant}/config_json']))
    net = nn.ModuleDict(dict(
        pts_backbone=SECOND(config['in_channels'], config['out_channels'], config['layer_nums'],
                            config['layer_strides']),
        pts_neck=SECONDFPN(config['out_channels'], config['fpn_out_channels'], config['upsample_strides'],
                           config['use_conv_for_no_stride'])))
    start = f'{variant}/state_dict/'
    weights = {key[len(start):]: torch.from_numpy(value).float() for key, value in arrays.items()
               if key.startswith(start)}
    missing, unexpected = net.load_state_dict(weights, strict=False)
    assert weights and not unexpected and all(key.endswith('num_batches_tracked') for key in missing)
    return net


@pytest.mark.parametrize('mode', ['eval', 'train'])
@pytest.mark.parametrize('variant', VARIANTS)
def test_maps_and_gradients_are_those_of_mmdet3d(recorded, variant, mode):
    net = net_of(recorded, variant).train(mode == 'train')
    x = torch.from_numpy(recorded[f'{variant}/input']).float().requires_grad_()
    maps = net['pts_backbone'](x)
    out = net['pts_neck'](maps)
    part = {key.removeprefix(f'{variant}/{mode}/'): value for key, value in recorded.items()}
    for i, value in enumerate(maps):
        rows = value.detach().transpose(0, 1).flatten(1)
        stats = torch.stack([rows.mean(1), rows.std(1, correction=0), rows.abs().amax(1)], 1)
        np.testing.assert_allclose(stats, part[f'backbone{i}_stats'], rtol=0, atol=5e-5)
        np.testing.assert_allclose(value.detach()[:, ::2, ::2, ::2], part[f'backbone{i}_stride2'], rtol=0, atol=5e-5)
    shown = out.detach() if mode == 'eval' else out.detach()[:, ::2, ::2, ::2]
    np.testing.assert_allclose(shown, part['fpn_output'], rtol=0, atol=5e-5)
    if mode == 'train':
        (out * torch.from_numpy(part['cotangent']).float()).sum().backward()
        assert np.abs(x.grad.numpy() - part['grad_input']).max() <= 1e-4 * np.abs(part['grad_input']).max()
        for key in (key for key in part if key.startswith('after/')):
            np.testing.assert_allclose(net.state_dict()[key[6:]], part[key], rtol=0, atol=1e-5)


def shapes(module, prefix):
    return {f'{prefix}.{key}': list(value.shape) for key, value in module.state_dict().items()}


@pytest.mark.parametrize(('name', 'prefix', 'channels', 'layers', 'strides', 'neck'), [
    ('centerpoint_pillar02_second_secfpn_8xb4-cyclic-20e_nus-3d', 'pts_', (64, 64, 128, 256), (3, 5, 5), (2, 2, 2),
     dict(channels=(128, 128, 128), strides=(.5, 1, 2))),
    ('centerpoint_voxel01_second_secfpn_8xb4-cyclic-20e_nus-3d', 'pts_', (256, 128, 256), (5, 5), (1, 2),
     dict(channels=(256, 256), strides=(1, 2), conv_for_stride_1=True)),
    ('pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class', '', (64, 64, 128, 256), (3, 5, 5), (2, 2, 2),
     dict(channels=(128, 128, 128), strides=(1, 2, 4))),
    ('pointpillars_hv_fpn_sbn-all_8xb4-2x_nus-3d', 'pts_', (64, 64, 128, 256), (3, 5, 5), (2, 2, 2), None)])
def test_published_weights_fit(published, name, prefix, channels, layers, strides, neck):
    with torch.device('meta'):
        backbone = SECOND(channels[0], channels[1:], layers, strides)
        neck = SECONDFPN(channels[1:], **neck) if neck else FPN(channels[1:], norm=dict(eps=1e-3))
    wanted = {key: value for key, value in published[name].items()
              if key.startswith((f'{prefix}backbone.', f'{prefix}neck.'))}
    assert shapes(backbone, f'{prefix}backbone') | shapes(neck, f'{prefix}neck') == wanted


def test_published_weights_of_the_head_fit(published):
    tasks = [['car'], ['truck', 'construction_vehicle'], ['bus', 'trailer'], ['barrier'], ['motorcycle', 'bicycle'],
             ['pedestrian', 'traffic_cone']]
    for name, channels in (('pillar02', 384), ('voxel01', 512)):
        with torch.device('meta'):
            head = CenterHead(channels, tasks, (-51.2, -51.2, -5, 51.2, 51.2, 3), (.2, .2), 4)
        wanted = published[f'centerpoint_{name}_second_secfpn_8xb4-cyclic-20e_nus-3d']
        assert shapes(head, 'pts_bbox_head') == {k: v for k, v in wanted.items() if k.startswith('pts_bbox_head.')}


def test_fpn_sums_from_coarse_to_fine():
    torch.manual_seed(0)
    net = FPN((3, 5), channels=2, outputs=4)
    maps = [torch.randn(2, 3, 7, 5), torch.randn(2, 5, 4, 3)]
    outputs = net(maps)
    assert [tuple(x.shape) for x in outputs] == [(2, 2, 7, 5), (2, 2, 4, 3), (2, 2, 2, 2), (2, 2, 1, 1)]
    coarse = net.lateral_convs[1](maps[1])
    rows, columns = [i * 4 // 7 for i in range(7)], [i * 3 // 5 for i in range(5)]
    fine = net.lateral_convs[0](maps[0]) + coarse[:, :, rows][..., columns]
    torch.testing.assert_close(outputs[0], net.fpn_convs[0](fine))
    torch.testing.assert_close(outputs[1], net.fpn_convs[1](coarse))
    assert torch.equal(outputs[3], outputs[2][..., ::2, ::2])


def test_fpn_halves_by_convolutions_and_loads_names_of_mmdet():
    net = FPN((3,), channels=2, outputs=3, extra_convs=True)
    assert [tuple(x.shape[2:]) for x in net([torch.randn(1, 3, 7, 5)])] == [(7, 5), (4, 3), (2, 2)]
    assert [*net.state_dict()] == [f'{part}.conv.{kind}' for part in ('lateral_convs.0', 'fpn_convs.0', 'fpn_convs.1',
                                                                      'fpn_convs.2') for kind in ('weight', 'bias')]


def test_fpn_may_give_the_finest_map_alone():
    """BEVDet: other levels have no second convolution."""
    torch.manual_seed(0)
    net, whole = FPN((3, 5), channels=2, finest_only=True), FPN((3, 5), channels=2)
    assert [*net.state_dict()] == [name for name in whole.state_dict() if not name.startswith('fpn_convs.1')]
    net.load_state_dict(whole.state_dict(), strict=False)
    maps = [torch.randn(2, 3, 7, 5), torch.randn(2, 5, 4, 3)]
    assert torch.equal(net(maps), whole(maps)[0]) and net.out_channels == whole.out_channels == 2


def test_maps_that_do_not_meet_are_refused():
    """Such as those of an image 70 pixels high: 18 rows at stride 4, 9 at 8, 5 at 16, 3 at 32."""
    neck = SECONDFPN((2, 2, 2), (2, 2, 2), (0.5, 1, 2))
    with pytest.raises(ConfigError, match=r'maps of 4 x 8 and 5 x 8 and 6 x 8 cells, expected one size'):
        neck([torch.zeros(1, 2, rows, columns) for rows, columns in ((9, 16), (5, 8), (3, 4))])
    assert neck([torch.zeros(1, 2, 16 // n, 16 // n) for n in (1, 2, 4)]).shape == (1, 6, 8, 8)


@pytest.mark.parametrize(('make', 'message'), [
    (lambda: FPN((4, 8), outputs=3, finest_only=True), '3 outputs of 2 inputs'),
    (lambda: SECOND(4, (8, 8), (1,), (1, 2)), '2 channels, 1 layers, 2 strides'),
    (lambda: SECONDFPN((4, 8), (8,), (1,)), '2 in_channels, 1 channels'),
    (lambda: SECONDFPN((4,), (8,), (1.5,)), 'stride 1.5'), (lambda: SECONDFPN((4,), (8,), (0,)), 'stride 0'),
    (lambda: FPN((4, 8), outputs=1), '1 outputs of 2 inputs')])
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
