"""The names of IntRA-KD's released teacher, written down from its description."""
import pytest
import torch

from perception.lanes.convert import pspnet
from perception.lanes.models.pspnet import PSPNet
from perception.utils.errors import CheckpointError


def norm(name, channels):
    return {f'{name}.weight': (channels,), f'{name}.bias': (channels,), f'{name}.running_mean': (channels,),
            f'{name}.running_var': (channels,)}


def published_shapes(classes=37):
    """Names and shapes of the released teacher, written down from its description; PyTorch 0.3 counted no batches."""
    base, context = 'base_model', 'context_model'
    shapes = {f'{base}.conv1.weight': (64, 3, 7, 7), **norm(f'{base}.bn1', 64)}
    channels = 64
    for layer, (width, count) in enumerate(((64, 3), (128, 4), (256, 23), (512, 3)), 1):
        for k in range(count):
            block = f'{base}.layer{layer}.{k}'
            shapes |= {f'{block}.conv1.weight': (width, channels, 1, 1), **norm(f'{block}.bn1', width),
                       f'{block}.conv2.weight': (width, width, 3, 3), **norm(f'{block}.bn2', width),
                       f'{block}.conv3.weight': (4 * width, width, 1, 1), **norm(f'{block}.bn3', 4 * width)}
            if k == 0:
                shapes |= {f'{block}.downsample.0.weight': (4 * width, channels, 1, 1),
                           **norm(f'{block}.downsample.1', 4 * width)}
            channels = 4 * width
    for k in range(4):
        shapes |= {f'{context}.conv2d_list.{k}.weight': (512, 2048, 1, 1), **norm(f'{context}.bn2d_list.{k}', 512)}
    shapes |= {f'{context}.out_conv2d.weight': (512, 4096, 3, 3), **norm(f'{context}.out_bn2d', 512)}
    return shapes | {'classifier.weight': (classes, 512, 1, 1), 'classifier.bias': (classes,)}


def test_released_teacher_is_converted(convert):
    shapes = published_shapes()
    source = {name: torch.full((), float(i)).expand(shapes[name]) for i, name in enumerate(shapes)}
    weights, net, arguments = convert(pspnet, source)
    images = arguments.pop('data_preprocessor')
    assert images['bgr'] and images['mean'] == (103.939, 116.779, 123.68) and images['std'] == (1, 1, 1)
    assert net is PSPNet and arguments == dict(num_classes=37, num_lanes=0, legacy=True)
    with torch.device('meta'):
        expected = net(**arguments).state_dict()
    assert {name: value.shape for name, value in weights.items()} == {n: v.shape for n, v in expected.items()}
    pairs = {'stem.0.weight': 'base_model.conv1.weight', 'stem.1.running_mean': 'base_model.bn1.running_mean',
             'stage3.22.bn2.bias': 'base_model.layer3.22.bn2.bias',
             'stage4.0.downsample.1.weight': 'base_model.layer4.0.downsample.1.weight',
             'context.branches.2.0.weight': 'context_model.conv2d_list.2.weight',
             'context.branches.3.1.running_var': 'context_model.bn2d_list.3.running_var',
             'context.fuse.0.weight': 'context_model.out_conv2d.weight', 'classifier.bias': 'classifier.bias'}
    for ours, theirs in pairs.items():
        assert weights[ours].flatten()[0] == source[theirs].flatten()[0]
    numbers = [float(value.flatten()[0]) for name, value in weights.items() if not name.endswith('num_batches_tracked')]
    assert sorted(numbers) == sorted(float(value.flatten()[0]) for value in source.values())


def test_incomplete_teacher_is_refused(convert):
    source = {name: torch.zeros(()).expand(shape) for name, shape in published_shapes().items()}
    del source['base_model.layer2.1.bn3.bias']
    with pytest.raises(CheckpointError, match='1 missing names.*layer2.1.bn3.bias'):
        convert(pspnet, source)
