"""Names and shapes of LSS, BEVDet-R50 and BEVDepth-R50, written down from their descriptions, become those of ours."""
from argparse import Namespace

import numpy as np
import pytest
import torch

from perception.apis.config import load_config, parse_options
from perception.apis.listing import converters
from perception.bev.convert import bevdepth, bevdet, lss
from perception.bev.models.bev_net import FRAMES
from perception.bev.models.encoder import LSSEncoder
from perception.bev.published import TASKS
from perception.bev.transforms import image_matrix
from perception.registry import MODELS, TRANSFORMS
from perception.utils.checkpoint import check_weights
from perception.utils.errors import CheckpointError

LEAVES = ('weight', 'bias', 'running_mean', 'running_var')
EFFICIENT = ((1, 3, 1, 16), (2, 3, 6, 24), (2, 5, 6, 40), (3, 3, 6, 80), (3, 5, 6, 112), (4, 5, 6, 192), (1, 3, 6, 320))


def conv(name, out, into, kernel=3, bias=False):
    return {f'{name}.weight': (out, into, kernel, kernel), **({f'{name}.bias': (out,)} if bias else {})}


def norm(name, channels):
    return {f'{name}.{leaf}': (channels,) for leaf in LEAVES} | {f'{name}.num_batches_tracked': ()}


def pair(conv_name, norm_name, out, into, kernel=3, bias=False):
    return conv(conv_name, out, into, kernel, bias) | norm(norm_name, out)


def basic(name, out, into):
    return pair(f'{name}.conv1', f'{name}.bn1', out, into) | pair(f'{name}.conv2', f'{name}.bn2', out, out)


def resnet18(name, into, widths):
    """Stem and three stages of two blocks; stages 2 and 3 begin with a stride."""
    shapes = pair(f'{name}.conv1', f'{name}.bn1', widths[0], into, 7)
    for stage, (a, b) in enumerate(zip((widths[0], *widths), widths), 1):
        shapes |= basic(f'{name}.layer{stage}.0', b, a) | basic(f'{name}.layer{stage}.1', b, b)
        if stage > 1:
            shapes |= pair(f'{name}.layer{stage}.0.downsample.0', f'{name}.layer{stage}.0.downsample.1', b, a, 1)
    return shapes


def resnet50(name):
    shapes, channels = pair(f'{name}.conv1', f'{name}.bn1', 64, 3, 7), 64
    for stage, (width, count) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 1):
        for k in range(count):
            block = f'{name}.layer{stage}.{k}'
            shapes |= pair(f'{block}.conv1', f'{block}.bn1', width, channels, 1)
            shapes |= pair(f'{block}.conv2', f'{block}.bn2', width, width)
            shapes |= pair(f'{block}.conv3', f'{block}.bn3', 4 * width, width, 1)
            if k == 0:
                shapes |= pair(f'{block}.downsample.0', f'{block}.downsample.1', 4 * width, channels, 1)
            channels = 4 * width
    return shapes


def efficientnet_b0(name):
    shapes, channels, number = pair(f'{name}._conv_stem', f'{name}._bn0', 32, 3), 32, 0
    for count, kernel, expansion, out in EFFICIENT:
        for _ in range(count):
            block, inner, squeezed = f'{name}._blocks.{number}', channels * expansion, channels // 4
            if expansion > 1:
                shapes |= pair(f'{block}._expand_conv', f'{block}._bn0', inner, channels, 1)
            shapes |= {f'{block}._depthwise_conv.weight': (inner, 1, kernel, kernel)} | norm(f'{block}._bn1', inner)
            shapes |= conv(f'{block}._se_reduce', squeezed, inner, 1, True)
            shapes |= conv(f'{block}._se_expand', inner, squeezed, 1, True)
            shapes |= pair(f'{block}._project_conv', f'{block}._bn2', out, inner, 1)
            channels, number = out, number + 1
    return shapes | pair(f'{name}._conv_head', f'{name}._bn1', 1280, 320, 1) | {
        f'{name}._fc.weight': (1000, 1280), f'{name}._fc.bias': (1000,)}


def center_head(name):
    shapes = pair(f'{name}.shared_conv.conv', f'{name}.shared_conv.bn', 64, 256)
    for task, classes in enumerate(TASKS):
        for branch, count in dict(reg=2, height=1, dim=3, rot=2, vel=2, heatmap=len(classes)).items():
            part = f'{name}.task_heads.{task}.{branch}'
            shapes |= pair(f'{part}.0.conv', f'{part}.0.bn', 64, 64) | conv(f'{part}.1', count, 64, 3, True)
    return shapes


def lss_names():
    return {
        'dx': (3,), 'bx': (3,), 'nx': (3,), 'frustum': (41, 8, 22, 3), **efficientnet_b0('camencode.trunk'),
        **pair('camencode.up1.conv.0', 'camencode.up1.conv.1', 512, 432),
        **pair('camencode.up1.conv.3', 'camencode.up1.conv.4', 512, 512),
        **conv('camencode.depthnet', 105, 512, 1, True), **resnet18('bevencode', 64, (64, 128, 256)),
        **pair('bevencode.up1.conv.0', 'bevencode.up1.conv.1', 256, 320),
        **pair('bevencode.up1.conv.3', 'bevencode.up1.conv.4', 256, 256),
        **pair('bevencode.up2.1', 'bevencode.up2.2', 128, 256), **conv('bevencode.up2.4', 1, 128, 1, True)}


def bevdet_names(later=False):
    view, backbone, neck = 'img_view_transformer', 'img_bev_encoder_backbone', 'img_bev_encoder_neck'
    channels = 256 if later else 512
    shapes = {} if later else {f'{view}.{name}': (3,) for name in ('dx', 'bx', 'nx')} | {
        f'{view}.frustum': (59, 16, 44, 3)}
    shapes |= resnet50('img_backbone') | conv('img_neck.lateral_convs.0.conv', channels, 1024, 1, True)
    shapes |= conv('img_neck.lateral_convs.1.conv', channels, 2048, 1, True)
    shapes |= conv('img_neck.fpn_convs.0.conv', channels, channels, 3, True)
    shapes |= conv(f'{view}.{"depth_net" if later else "depthnet"}', 59 + 64, channels, 1, True)
    for stage, (a, b) in enumerate(((64, 128), (128, 256), (256, 512))):
        block = f'{backbone}.layers.{stage}'
        shapes |= basic(f'{block}.0', b, a) | basic(f'{block}.1', b, b) | conv(f'{block}.0.downsample', b, a, 3, True)
    shapes |= pair(f'{neck}.conv.0', f'{neck}.conv.1', 512, 640) | pair(f'{neck}.conv.3', f'{neck}.conv.4', 512, 512)
    shapes |= pair(f'{neck}.up2.1', f'{neck}.up2.2', 256, 512) | conv(f'{neck}.up2.4', 256, 256, 1, True)
    return shapes | center_head('pts_bbox_head')


def bevdepth_names(dcn=True, aggregation=False, prefix='model.', frames=1):
    view = 'backbone.depth_net'
    shapes = {'backbone.voxel_size': (3,), 'backbone.voxel_coord': (3,), 'backbone.voxel_num': (3,),
              'backbone.frustum': (112, 16, 44, 4), **resnet50('backbone.img_backbone')}
    for i, (into, kernel, up) in enumerate(((256, 4, False), (512, 2, False), (1024, 1, True), (2048, 2, True))):
        block = f'backbone.img_neck.deblocks.{i}'
        shapes[f'{block}.0.weight'] = (into, 128, kernel, kernel) if up else (128, into, kernel, kernel)
        shapes |= norm(f'{block}.1', 128)
    shapes |= pair(f'{view}.reduce_conv.0', f'{view}.reduce_conv.1', 512, 512, 3, True)
    shapes |= conv(f'{view}.context_conv', 80, 512, 1, True) | norm(f'{view}.bn', 27)
    for part in ('depth', 'context'):
        shapes |= {f'{view}.{part}_mlp.fc1.weight': (512, 27), f'{view}.{part}_mlp.fc1.bias': (512,),
                   f'{view}.{part}_mlp.fc2.weight': (512, 512), f'{view}.{part}_mlp.fc2.bias': (512,)}
        shapes |= conv(f'{view}.{part}_se.conv_reduce', 512, 512, 1, True)
        shapes |= conv(f'{view}.{part}_se.conv_expand', 512, 512, 1, True)
    for i in range(3):
        shapes |= basic(f'{view}.depth_conv.{i}', 512, 512)
    aspp = f'{view}.depth_conv.3'
    for i, kernel in enumerate((1, 3, 3, 3), 1):
        shapes |= pair(f'{aspp}.aspp{i}.atrous_conv', f'{aspp}.aspp{i}.bn', 512, 512, kernel)
    shapes |= pair(f'{aspp}.global_avg_pool.1', f'{aspp}.global_avg_pool.2', 512, 512, 1)
    shapes |= pair(f'{aspp}.conv1', f'{aspp}.bn1', 512, 2560, 1)
    shapes[f'{view}.depth_conv.4.weight'] = (512, 128, 3, 3)
    if dcn:
        shapes |= conv(f'{view}.depth_conv.4.conv_offset', 18, 512, 3, True)
    shapes |= conv(f'{view}.depth_conv.5', 112, 512, 1, True)
    if aggregation:
        net = 'backbone.depth_aggregation_net'
        shapes |= pair(f'{net}.reduce_conv.0', f'{net}.reduce_conv.1', 80, 80)
        shapes |= conv(f'{net}.out_conv.0', 80, 80, 3, True)
        shapes |= pair(f'{net}.conv.0', f'{net}.conv.1', 80, 80) | pair(f'{net}.conv.3', f'{net}.conv.4', 80, 80)
    shapes |= resnet18('head.trunk', 80 * frames, (160, 320, 640))
    for i, (into, kernel) in enumerate(((80 * frames, 1), (160, 2), (320, 4), (640, 8))):
        block = f'head.neck.deblocks.{i}'
        shapes |= {f'{block}.0.weight': (into, 64, kernel, kernel)} | norm(f'{block}.1', 64)
    return {f'{prefix}{name}': shape for name, shape in (shapes | center_head('head')).items()}


def numbered(shapes):
    """A file in which every weight is another constant, which takes no memory."""
    return {name: torch.full((), i, dtype=torch.long if name.endswith('tracked') else torch.float).expand(shape)
            for i, (name, shape) in enumerate(shapes.items())}


CASES = {
    'lss': (lss, lss_names(), 4 + 8, 'lss_b0_vehicle.py', {
        'backbone._blocks.15._bn2.bias': 'camencode.trunk._blocks.15._bn2.bias',
        'neck.conv.3.weight': 'camencode.up1.conv.3.weight', 'encoder.up.conv.1.bias': 'bevencode.up1.conv.1.bias',
        'encoder.trunk.layer2.0.downsample.0.weight': 'bevencode.layer2.0.downsample.0.weight',
        'encoder.last.0.weight': 'bevencode.up2.1.weight', 'heads.map.last.bias': 'bevencode.up2.4.bias'}),
    'bevdet': (bevdet, bevdet_names(), 4, 'bevdet_r50_nuscenes.py', {
        'backbone.stem.1.running_var': 'img_backbone.bn1.running_var',
        'backbone.stage3.5.conv3.weight': 'img_backbone.layer3.5.conv3.weight',
        'view_transform.depthnet.bias': 'img_view_transformer.depthnet.bias',
        'encoder.layers.2.0.downsample.bias': 'img_bev_encoder_backbone.layers.2.0.downsample.bias',
        'encoder.last.3.weight': 'img_bev_encoder_neck.up2.4.weight',
        'heads.boxes.task_heads.5.vel.0.bn.weight': 'pts_bbox_head.task_heads.5.vel.0.bn.weight'}),
    'bevdet later': (bevdet, bevdet_names(True), 0, 'bev_frame=ego', {
        'view_transform.depthnet.weight': 'img_view_transformer.depth_net.weight'}),
    'bevdepth': (bevdepth, bevdepth_names(aggregation=True), 4, 'use_dcn=True model.view_transform.aggregation=True', {
        'view_transform.depth_aggregation_net.conv.3.weight': 'model.backbone.depth_aggregation_net.conv.3.weight',
        'view_transform.depthnet.depth_conv.4.conv_offset.bias':
            'model.backbone.depth_net.depth_conv.4.conv_offset.bias',
        'encoder.neck.deblocks.3.0.weight': 'model.head.neck.deblocks.3.0.weight',
        'encoder.trunk.bn1.bias': 'model.head.trunk.bn1.bias',
        'heads.boxes.shared_conv.conv.weight': 'model.head.shared_conv.conv.weight'})}


# of the images of the published tests: factor, and pixels cut off at the left and at the top
CUTS = {'bevdet': (.48, 32, 176), 'bevdet later': (.44, 0, 140), 'bevdepth': (.44, 0, 140), 'lss': (.22, 0, 48)}


@pytest.mark.parametrize('name', CASES)
def test_every_published_weight_arrives_once(name):
    module, shapes, dropped, usage, pairs = CASES[name]
    source = numbered(shapes)
    assert module.fits(source) and sum(other.load().fits(source) for other in converters().values()) == 1
    weights, line = module.convert(source, Namespace())
    assert usage in line and line.startswith('configs/bev/')
    numbers = [float(value.flatten()[0]) for key, value in weights.items() if key != 'frame']
    assert len({*numbers}) == len(numbers) == len(source) - dropped
    assert int(weights['frame']) == ('ego' in line or name == 'lss')
    config, options = line.split(' --cfg-options ')
    cfg = load_config(config, options=parse_options(options.split()))
    with torch.device('meta'):
        check_weights(MODELS.build(cfg.model), weights)
    assert cfg.model.get('bev_frame', 'lidar') == cfg.test_dataloader.dataset.bev_frame == FRAMES[int(weights['frame'])]
    for ours, theirs in pairs.items():
        assert float(weights[ours].flatten()[0]) == float(source[theirs].flatten()[0]), ours
    factor, left, top = CUTS[name]
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        aug = TRANSFORMS.build(loader.dataset.pipeline[0])
        np.testing.assert_allclose(image_matrix((900, 1600), aug.size, aug.scale[0], aug.bottom[0]), [
            [factor, 0, (factor - 1) / 2 - left], [0, factor, (factor - 1) / 2 - top], [0, 0, 1]], atol=1e-4)


def test_maps_of_lss_are_transposed():
    """Its encoder on x by y is ours on y by x with transposed kernels."""
    torch.manual_seed(0)
    theirs, ours = LSSEncoder(64).eval(), LSSEncoder(64).eval()
    names = {'trunk.': 'bevencode.', 'up.': 'bevencode.up1.', 'last.0.': 'bevencode.up2.1.',
             'last.1.': 'bevencode.up2.2.'}
    source = dict(numbered(lss_names()))
    for name, value in theirs.state_dict().items():
        start = next(start for start in names if name.startswith(start))
        source[names[start] + name.removeprefix(start)] = value
    weights = lss.convert(source, Namespace())[0]
    ours.load_state_dict({name.removeprefix('encoder.'): value for name, value in weights.items()
                          if name.startswith('encoder.')})
    features = torch.randn(1, 64, 24, 16)
    with torch.no_grad():
        torch.testing.assert_close(ours(features), theirs(features.mT).mT, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(('module', 'shapes', 'change', 'message'), [
    (lss, lss_names(), {'camencode.up1.conv.0.weight': None}, r'1 missing \(camencode.up1.conv.0.weight\)'),
    (bevdet, bevdet_names(), {'img_backbone.layer5.0.conv1.weight': (1, 1, 1, 1)}, '1 unexpected'),
    (bevdet, bevdet_names(), {'img_bev_encoder_neck.conv.0.weight': (512, 639, 3, 3)}, '1 mis-shaped'),
    (bevdet, bevdet_names(), {'img_view_transformer.depthnet.weight': ()}, 'depthnet.weight is missing or of another'),
    (bevdepth, bevdepth_names(frames=2), {}, '160 channels behind 80.*several key frames')])
def test_what_does_not_fit_is_named(module, shapes, change, message):
    changed = {name: shape for name, shape in (shapes | change).items() if shape is not None}
    with pytest.raises(CheckpointError, match=message):
        module.convert(numbered(changed), Namespace())
