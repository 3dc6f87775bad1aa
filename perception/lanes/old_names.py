"""What the converters of lane nets share: take published weights by their old names, read sizes from their shapes."""
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from perception.common.image_preprocessor import ImagePreprocessor
from perception.utils.errors import CheckpointError

# Codes-for-Lane-Detection and Codes-for-IntRA-KD: blue first, in 0..255. PytorchAutoDrive: ImageNet's, our default.
CAFFE = dict(type=ImagePreprocessor, mean=(103.939, 116.779, 123.68), std=(1, 1, 1), bgr=True)
IMAGENET = dict(type=ImagePreprocessor)
# positions left by the existence head's pooling -> (H, W), by which its weights tell the input size
INPUT_SIZES = {13 * 61: (208, 976), 18 * 50: (288, 800), 23 * 40: (368, 640), 22 * 40: (360, 640), 18 * 60: (288, 960),
               18 * 32: (288, 512)}
EXIST = {'features.0': 'layers.0', 'features.1': 'layers.1', 'features.4': 'layers_final.1', 'classifier.0': 'linear1',
         'classifier.2': 'linear2'}


class Conversion(NamedTuple):
    """What published weights say about the net of ours that takes them.

    Attributes:
        net: its class.
        arguments: its arguments.
        old_name: from our name of a weight to the published one.
    """
    net: type[nn.Module]
    arguments: dict
    old_name: Callable[[str], str]


def take_weights(source: dict[str, Tensor], found: Conversion, what: str,
                 input_size: Sequence[int] | None = None) -> tuple[dict[str, Tensor], str]:
    """Our weights from published ones.

    Args:
        source: the published weights, all of them used; only `num_batches_tracked` may be missing, as in old files.
        found: what they say about the net.
        what: the net and its projects, for messages.
        input_size: (H, W) that the net was trained with, where its existence head does not tell.

    Returns:
        the state dict, and the line of a config that builds its net.

    Raises:
        CheckpointError: names or shapes differ.
    """
    arguments = found.arguments if input_size is None else dict(found.arguments, input_size=tuple(input_size))
    with torch.device('meta'):
        expected = {name: value.shape for name, value in found.net(**arguments).state_dict().items()}
    old_names = {name: found.old_name(name) for name in expected}
    _compare(source, expected, old_names, what)
    weights = {name: source.get(old, torch.tensor(0)).clone() for name, old in old_names.items()}
    return weights, f'model = {_text(dict(type=found.net, **arguments))}'


def _compare(source: dict[str, Tensor], expected: dict[str, torch.Size], old_names: dict[str, str],
             what: str) -> None:
    missing = sorted(name for name in set(old_names.values()) - set(source) if not name.endswith('num_batches_tracked'))
    unexpected = sorted(set(source) - set(old_names.values()))
    if missing or unexpected:
        raise CheckpointError(f'convert: {len(missing)} missing names ({", ".join(missing[:5])}) and '
                              f'{len(unexpected)} unknown ones ({", ".join(unexpected[:5])}), expected those of '
                              f'{what}. Give the weights of a whole, unmodified net.')
    for name, shape in expected.items():
        old = old_names[name]
        if old in source and source[old].shape != shape:
            raise CheckpointError(f'convert: {old} of shape {tuple(source[old].shape)}, expected {tuple(shape)}. '
                                  'The file is no whole net of one width, or its input size has to be given.')


def _text(value: object) -> str:
    if isinstance(value, dict):
        return f'dict({", ".join(f"{name}={_text(part)}" for name, part in value.items())})'
    return value.__name__ if isinstance(value, type) else repr(value)


def exist_arguments(source: dict[str, Tensor], prefix: str) -> dict:
    """What the weights of the existence head tell; its input size where it is a usual one."""
    if not any(name.startswith(f'{prefix}.') for name in source):
        return dict(num_lanes=0)
    channels = size_of(source, f'{prefix}.layers_final.1.weight')
    arguments = lane_arguments(source, f'{prefix}.linear1', f'{prefix}.linear2', channels)
    if channels != arguments['num_lanes'] + 1:
        arguments['exist_channels'] = channels
    return arguments


def lane_arguments(source: dict[str, Tensor], first: str, last: str, channels: int) -> dict:
    """Number of lanes and usual input size, from the two linear layers behind a map of so many channels."""
    arguments = dict(num_lanes=size_of(source, f'{last}.weight'))
    positions = size_of(source, f'{first}.weight', 1) // channels
    if positions in INPUT_SIZES:
        arguments['input_size'] = INPUT_SIZES[positions]
    return arguments


def size_of(source: dict[str, Tensor], name: str, axis: int = 0) -> int:
    """Length of a weight along an axis.

    Raises:
        CheckpointError: there is no such weight.
    """
    if name not in source:
        raise CheckpointError(f'convert: {name} is missing, expected a whole net. The file is truncated or of '
                              'another version.')
    return source[name].shape[axis]


def join_names(blocks: dict[str, str], inner: dict[str, str]) -> dict[str, str]:
    """Our module -> published module, for modules of one kind that lie in several blocks."""
    return {f'{ours}.{a}': f'{theirs}.{b}' for ours, theirs in blocks.items() for a, b in inner.items()}


def make_renamer(modules: dict[str, str], weights: dict[str, str] | None = None) -> Callable[[str], str]:
    """Our name -> published name of a weight, from the names of the modules, and of single weights."""
    def rename(name: str) -> str:
        if name in (weights or {}):
            return weights[name]
        module, leaf = name.rsplit('.', 1)
        return f'{modules[module]}.{leaf}'
    return rename
