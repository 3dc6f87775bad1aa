"""Published weights of lane networks to the weights of `lanes/models`.

A converter recognises the names of one project's checkpoints and says which network of ours takes them; sizes are read
from the shapes, the normalisation of the images is the project's. `CONVERTERS` lists them: a new one is a function with
the decorator `converter`.
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from perception.common.image_preprocessor import ImagePreprocessor
from perception.common.nets.resnet import LAYOUTS, ResNet
from perception.lanes.models.enet import ENet
from perception.lanes.models.erfnet import ERFNet
from perception.lanes.models.pspnet import PSPNet
from perception.lanes.models.scnn import SCNN
from perception.utils.checkpoint import weights_of
from perception.utils.errors import CheckpointError

Conversion = tuple[type[nn.Module], dict, Callable[[str], str]]


@dataclass
class Converter:
    """How one kind of published weights becomes ours.

    Attributes:
        project: where the weights come from, for messages.
        mark: a name that only these weights hold.
        convert: takes the published state dict, from which it may remove what has no counterpart, and in which it may
            shape weights as ours are; gives our class, its arguments, and a function from our name of a weight to the
            published one.
    """

    project: str
    mark: str
    convert: Callable[[dict[str, Tensor]], Conversion]


CONVERTERS: list[Converter] = []


def converter(project: str, mark: str) -> Callable:
    """Decorator that lists a function among the converters, see Converter."""
    def register(function: Callable[[dict[str, Tensor]], Conversion]) -> Callable:
        CONVERTERS.append(Converter(project, mark, function))
        return function
    return register


# positions left by the existence head's pooling -> (H, W), by which its weights tell the input size
INPUT_SIZES = {13 * 61: (208, 976), 18 * 50: (288, 800), 23 * 40: (368, 640), 22 * 40: (360, 640), 18 * 60: (288, 960),
               18 * 32: (288, 512)}
EXIST = {'features.0': 'layers.0', 'features.1': 'layers.1', 'features.4': 'layers_final.1', 'classifier.0': 'linear1',
         'classifier.2': 'linear2'}


def lane_converter(weights: dict[str, Tensor]) -> Converter | None:
    """The converter that recognises the names of weights, or None."""
    return next((found for found in CONVERTERS if found.mark in weights), None)


def convert_lanes(source: dict, input_size: Sequence[int] | None = None) -> tuple[dict[str, Tensor], type, dict]:
    """Rename published weights.

    Args:
        source: a state dict, or a checkpoint that holds one as `state_dict`.
        input_size: (H, W) that the net was trained with, where its existence head does not tell.

    Returns:
        The state dict for `net(**arguments)`, the class `net`, and these arguments.

    Raises:
        CheckpointError: foreign, incomplete or mis-shaped weights.
    """
    source = weights_of(source, 'convert_lanes')
    found = lane_converter(source)
    if found is None:
        raise CheckpointError(f'convert_lanes: names such as {", ".join(list(source)[:3])}, expected weights of '
                              f'{", ".join(known.project for known in CONVERTERS)}. Give a checkpoint of one of them.')
    net, arguments, old_name = found.convert(source)
    if input_size is not None:
        arguments['input_size'] = tuple(input_size)
    with torch.device('meta'):
        expected = {name: value.shape for name, value in net(**arguments).state_dict().items()}
    old_names = {name: old_name(name) for name in expected}
    _compare(source, expected, old_names, found.project)
    # an old file may lack num_batches_tracked
    weights = {name: source.get(old, torch.tensor(0)).clone() for name, old in old_names.items()}
    return weights, net, arguments


def model_line(net: type, arguments: dict) -> str:
    """How to use converted weights: the line of a config that builds their network.

    Args:
        net: as `convert_lanes` returns it.
        arguments: as `convert_lanes` returns them.
    """
    return f'model = {_text(dict(type=net, **arguments))}'


def _text(value: object) -> str:
    if isinstance(value, dict):
        return f'dict({", ".join(f"{name}={_text(part)}" for name, part in value.items())})'
    return value.__name__ if isinstance(value, type) else repr(value)


def _compare(source: dict[str, Tensor], expected: dict[str, torch.Size], old_names: dict[str, str],
             project: str) -> None:
    missing = sorted(name for name in set(old_names.values()) - set(source) if not name.endswith('num_batches_tracked'))
    unexpected = sorted(set(source) - set(old_names.values()))
    if missing or unexpected:
        raise CheckpointError(f'convert_lanes: {len(missing)} missing names ({", ".join(missing[:5])}) and '
                              f'{len(unexpected)} unknown ones ({", ".join(unexpected[:5])}), expected those of '
                              f'{project}. Give the weights of a whole, unmodified net.')
    for name, shape in expected.items():
        old = old_names[name]
        if old in source and source[old].shape != shape:
            raise CheckpointError(f'convert_lanes: {old} of shape {tuple(source[old].shape)}, expected {tuple(shape)}. '
                                  'The file is no whole net of one width, or its input size has to be given.')


def _exist_arguments(source: dict[str, Tensor], prefix: str) -> dict:
    """What the weights of the existence head tell; its input size where it is a usual one."""
    if not any(name.startswith(f'{prefix}.') for name in source):
        return dict(num_lanes=0)
    channels = _size(source, f'{prefix}.layers_final.1.weight')
    arguments = _lane_arguments(source, f'{prefix}.linear1', f'{prefix}.linear2', channels)
    if channels != arguments['num_lanes'] + 1:
        arguments['exist_channels'] = channels
    return arguments


def _lane_arguments(source: dict[str, Tensor], first: str, last: str, channels: int) -> dict:
    """Number of lanes and usual input size, from the two linear layers behind a map of so many channels."""
    arguments = dict(num_lanes=_size(source, f'{last}.weight'))
    positions = _size(source, f'{first}.weight', 1) // channels
    if positions in INPUT_SIZES:
        arguments['input_size'] = INPUT_SIZES[positions]
    return arguments


def _size(source: dict[str, Tensor], name: str, axis: int = 0) -> int:
    if name not in source:
        raise CheckpointError(f'convert_lanes: {name} is missing, expected a whole net. The file is truncated or of '
                              'another version.')
    return source[name].shape[axis]


def _joined(blocks: dict[str, str], inner: dict[str, str]) -> dict[str, str]:
    """Our module -> published module, for modules of one kind that lie in several blocks."""
    return {f'{ours}.{a}': f'{theirs}.{b}' for ours, theirs in blocks.items() for a, b in inner.items()}


def _renamer(modules: dict[str, str], weights: dict[str, str] | None = None) -> Callable[[str], str]:
    """Our name -> published name of a weight, from the names of the modules, and of single weights."""
    def rename(name: str) -> str:
        if name in (weights or {}):
            return weights[name]
        module, leaf = name.rsplit('.', 1)
        return f'{modules[module]}.{leaf}'
    return rename


# --- ERFNet --------------------------------------------------------------------------------------------------------
ERFNET_BLOCK = {'first.0': 'conv3x1_1', 'first.2': 'conv1x3_1', 'first.3': 'bn1', 'second.0': 'conv3x1_2',
                'second.2': 'conv1x3_2', 'second.3': 'bn2',  # a factorised block
                'conv': 'conv', 'norm': 'bn', '0': 'conv', '1': 'bn'}  # a block down, a block up
# Codes-for-Lane-Detection and Codes-for-IntRA-KD: blue first, in 0..255. PytorchAutoDrive: ImageNet's, our default.
CAFFE = dict(type=ImagePreprocessor, mean=(103.939, 116.779, 123.68), std=(1, 1, 1), bgr=True)
IMAGENET = dict(type=ImagePreprocessor)


@converter('ERFNet (Codes-for-Lane-Detection, Codes-for-IntRA-KD, PytorchAutoDrive)', 'encoder.layers.0.conv.weight')
def convert_erfnet(source: dict[str, Tensor]) -> Conversion:
    """ERFNet; the name of its existence head tells the project, without one it is taken for IntRA-KD's."""
    head = 'lane_classifier' if 'lane_classifier.linear1.weight' in source else 'lane_exist'
    images = IMAGENET if head == 'lane_classifier' else CAFFE
    arguments = dict(data_preprocessor=images, num_classes=_size(source, 'decoder.output_conv.weight', 1),
                     **_exist_arguments(source, head))
    stages = [f'stage1.{k}' for k in range(6)] + [f'stage2.{k}' for k in range(5)] + [f'stage3.{k}' for k in range(4)]
    blocks = {ours: f'encoder.layers.{k}' for k, ours in enumerate(stages)}
    blocks |= {'stem': 'encoder.initial_block', **{f'decoder.{k}': f'decoder.layers.{k}' for k in range(6)}}
    modules = _joined(blocks, ERFNET_BLOCK) | _joined({'exist': head}, EXIST)
    modules |= {'classifier': 'decoder.output_conv', 'encoder_classifier': 'encoder.output_conv'}
    return ERFNet, arguments, _renamer(modules)


# --- ENet ----------------------------------------------------------------------------------------------------------
ENET_STEM = {'conv': 'main_branch', 'norm': 'batch_norm', 'act': 'out_activation'}
ENET_BLOCK = {'act': 'out_activation', **{f'{ours}.{k}': f'{theirs}.{k}' for k in range(6) for ours, theirs in
                                          (('reduce', 'ext_conv1'), ('conv', 'ext_conv2'), ('expand', 'ext_conv3'))}}
ENET_UP = {'main.0': 'main_conv1.0', 'main.1': 'main_conv1.1', 'reduce.0': 'ext_conv1.0', 'reduce.1': 'ext_conv1.1',
           'conv.0': 'ext_tconv1', 'conv.1': 'ext_tconv1_bnorm', 'expand.0': 'ext_conv2.0', 'expand.1': 'ext_conv2.1'}


@converter('ENet (PytorchAutoDrive)', 'encoder.downsample1_0.ext_conv1.0.weight')
def convert_enet(source: dict[str, Tensor]) -> Conversion:
    """ENet with or without existence head."""
    arguments = dict(data_preprocessor=IMAGENET, num_classes=_size(source, 'decoder.transposed_conv.weight', 1),
                     **_exist_arguments(source, 'lane_classifier'))
    kinds = list(enumerate(('regular', 'dilated', 'asymmetric', 'dilated') * 2))
    blocks = {'down1': 'encoder.downsample1_0', 'down2': 'encoder.downsample2_0',
              **{f'stage1.{k}': f'encoder.regular1_{k + 1}' for k in range(4)},
              **{f'stage2.{k}': f'encoder.{kind}2_{k + 1}' for k, kind in kinds},
              **{f'stage3.{k}': f'encoder.{kind}3_{k}' for k, kind in kinds},
              **{f'decoder.stage1.{k}': f'decoder.regular4_{k + 1}' for k in range(2)},
              'decoder.stage2.0': 'decoder.regular5_1'}
    ups = {'decoder.up1': 'decoder.upsample4_0', 'decoder.up2': 'decoder.upsample5_0'}
    modules = _joined(blocks, ENET_BLOCK) | _joined(ups, ENET_UP) | _joined({'exist': 'lane_classifier'}, EXIST)
    modules |= _joined({'stem': 'encoder.initial_block'}, ENET_STEM) | {'classifier': 'decoder.transposed_conv'}
    return ENet, arguments, _renamer(modules)


# --- ResNet --------------------------------------------------------------------------------------------------------
@converter('ResNet (torchvision; the backbone of ResNetSeg)', 'layer1.0.conv1.weight')
def convert_resnet(source: dict[str, Tensor]) -> Conversion:
    """The ResNets of torchvision without their classifier; ResNetSeg takes them as `init_cfg` of type Pretrained."""
    for name in ('fc.weight', 'fc.bias'):
        source.pop(name, None)
    counts = tuple(len({name.split('.')[1] for name in source if name.startswith(f'layer{n}.')}) for n in (1, 2, 3, 4))
    bottleneck = 'layer1.0.conv3.weight' in source
    depths = [depth for depth, (block, blocks) in LAYOUTS.items()
              if blocks == counts and (block.expansion == 4) == bottleneck]
    if not depths:
        raise CheckpointError(f'convert_lanes: a ResNet with {counts} blocks, expected one of depth '
                              f'{", ".join(map(str, LAYOUTS))}. Give the weights of such a net.')

    def rename(name: str) -> str:
        old = name.replace('stage', 'layer')
        return old.replace('stem.0.', 'conv1.').replace('stem.1.', 'bn1.')
    return ResNet, dict(depth=depths[0]), rename


# --- PSPNet --------------------------------------------------------------------------------------------------------
@converter('PSPNet (Codes-for-IntRA-KD)', 'context_model.out_conv2d.weight')
def convert_pspnet(source: dict[str, Tensor]) -> Conversion:
    """The teacher of IntRA-KD, ResNet-101; trained with the context of the released code."""
    arguments = dict(data_preprocessor=CAFFE, num_classes=_size(source, 'classifier.weight'), num_lanes=0,
                     legacy=True)
    modules = {**{f'context.branches.{k}.0': f'context_model.conv2d_list.{k}' for k in range(4)},
               **{f'context.branches.{k}.1': f'context_model.bn2d_list.{k}' for k in range(4)},
               'context.fuse.0': 'context_model.out_conv2d', 'context.fuse.1': 'context_model.out_bn2d',
               'stem.0': 'base_model.conv1', 'stem.1': 'base_model.bn1', 'classifier': 'classifier'}

    def rename(name: str) -> str:
        module, leaf = name.rsplit('.', 1)
        return f'{modules.get(module, module.replace("stage", "base_model.layer"))}.{leaf}'
    return PSPNet, arguments, rename


# --- SCNN ----------------------------------------------------------------------------------------------------------
# our convolution -> its place in torchvision's `features` of VGG-16; its norm follows it in both
VGG = {f'{stage}.{k}': first + k for stage, first, places in (
    ('stem', 0, (0, 3, 7, 10)), ('stage1', 14, (0, 3, 6)), ('stage2', 23, (1, 4, 7)), ('stage3', 34, (0, 3, 6)))
    for k in places}
VGG_BLOCKS = ('1_1', '1_2', '2_1', '2_2', '3_1', '3_2', '3_3', '4_1', '4_2', '4_3', '5_1', '5_2', '5_3')
DIRECTIONS = ('down', 'up', 'right', 'left')
CULANE = dict(type=ImagePreprocessor, mean=(91.75, 93.15, 93.38), std=(65.61, 67.91, 70.28))


@converter('SCNN with VGG-16 (SCNN_Pytorch, also its copy of the Lua weights)', 'message_passing.up_down.weight')
def convert_scnn(source: dict[str, Tensor]) -> Conversion:
    """The paper's Lua weights as SCNN_Pytorch renames them, or those trained there."""
    names = dict(zip(DIRECTIONS, ('up_down', 'down_up', 'left_right', 'right_left')))
    passes = {f'message.{ours}': f'message_passing.{theirs}.weight' for ours, theirs in names.items()}
    neck = {f'neck.{k}': f'layer1.{k}' for k in (0, 1, 3, 4)}
    return _scnn(source, _vgg('backbone') | neck, passes, ('layer2.1', 'fc.0', 'fc.2'), CULANE)


@converter('SCNN with VGG-16 (scnn_pytorch, its copy of the Lua weights)', 'conv_d.weight')
def convert_plain_scnn(source: dict[str, Tensor]) -> Conversion:
    """The paper's Lua weights as scnn_pytorch renames them, without biases where batch norms follow.

    Its own passes up and left leave out their last slice; the paper's do not, so they are not taken over.
    """
    blocks = _pairs({ours: (f'conv{block}', f'bn{block}')
                     for ours, block in zip((*VGG, 'neck.0', 'neck.3'), (*VGG_BLOCKS, '6', '7'))})
    for name in (f'conv{block}' for block in VGG_BLOCKS):
        if f'{name}.weight' in source:
            source.setdefault(f'{name}.bias', torch.zeros(len(source[f'{name}.weight'])))
    passes = {f'message.{name}': f'conv_{name[0]}.weight' for name in DIRECTIONS}
    return _scnn(source, blocks, passes, ('conv8', 'fc9', 'fc10'), CULANE)


@converter('SCNN with VGG-16 (PytorchAutoDrive)', 'scnn.conv_d.weight')
def convert_auto_drive_scnn(source: dict[str, Tensor]) -> Conversion:
    """SCNN with or without existence head, whose passes are `legacy`."""
    passes = {f'message.{name}': f'scnn.conv_{name[0]}.weight' for name in DIRECTIONS}
    passes |= {f'message.{name}_bias': f'scnn.conv_{name[0]}.bias' for name in DIRECTIONS}
    neck = {f'neck.{k}': f'fc67.{k}' for k in (0, 1, 3, 4)}
    net, arguments, rename = _scnn(source, _vgg('encoder.net') | neck, passes,
                                   ('fc8.1', 'lane_classifier.linear1', 'lane_classifier.linear2'), IMAGENET)
    return net, dict(arguments, legacy=True), rename


def _scnn(source: dict[str, Tensor], modules: dict[str, str], passes: dict[str, str], heads: tuple[str, str, str],
          images: dict) -> Conversion:
    """SCNN from the names of its backbone and neck, of its passes, and of its classifier and two linear layers."""
    classifier, first, last = heads
    num_classes = _size(source, f'{classifier}.weight')
    lanes = dict(num_lanes=0)
    if any(name.startswith((f'{first}.', f'{last}.')) for name in source):
        lanes = _lane_arguments(source, first, last, num_classes)
    for ours, theirs in passes.items():  # (128, 128, 1, 9) of the passes down and up, (128, 128, 9, 1) of the others
        kernel, axis = source.get(theirs), 2 if ours.endswith(('down', 'up')) else 3
        if kernel is not None and kernel.dim() == 4 and kernel.shape[axis] == 1:
            source[theirs] = kernel.squeeze(axis)
    modules = modules | {'classifier.1': classifier, 'exist.classifier.0': first, 'exist.classifier.2': last}
    return SCNN, dict(data_preprocessor=images, num_classes=num_classes, **lanes), _renamer(modules, passes)


def _pairs(names: dict[str, tuple[str, str]]) -> dict[str, str]:
    """Our module -> published module, from our convolution -> published convolution and the norm behind it."""
    modules = {}
    for ours, (convolution, norm) in names.items():
        stage, k = ours.split('.')
        modules |= {ours: convolution, f'{stage}.{int(k) + 1}': norm}
    return modules


def _vgg(prefix: str) -> dict[str, str]:
    """Modules of a VGG-16 with the places of torchvision."""
    return _pairs({ours: (f'{prefix}.{place}', f'{prefix}.{place + 1}') for ours, place in VGG.items()})
