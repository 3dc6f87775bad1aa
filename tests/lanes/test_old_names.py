"""The converters of the room: each file has one, and one only."""
import ast
import importlib
from pathlib import Path

import pytest
import torch

import perception.lanes.convert
from perception.common.nets.resnet import ResNet
from perception.lanes.old_names import Conversion, join_names, make_renamer, size_of, take_weights
from perception.utils.errors import CheckpointError

MODULES = {path.stem: importlib.import_module(f'perception.lanes.convert.{path.stem}')
           for path in sorted(Path(perception.lanes.convert.__file__).parent.glob('[a-z]*.py'))}
MARKS = dict(erfnet=['encoder.layers.0.conv.weight'], enet=['encoder.downsample1_0.ext_conv1.0.weight'],
             resnet=['layer1.0.conv1.weight'], pspnet=['context_model.out_conv2d.weight'],
             scnn=['message_passing.up_down.weight', 'conv_d.weight', 'scnn.conv_d.weight'])


def test_a_converter_knows_its_own_weights_only():
    assert set(MARKS) == set(MODULES)
    for name, marks in MARKS.items():
        for mark in marks:
            weights = {mark: torch.zeros(1)}
            assert [other for other, module in MODULES.items() if module.fits(weights)] == [name]
    assert not any(module.fits({'backbone.conv.weight': torch.zeros(3)}) for module in MODULES.values())


def test_goldens_belong_to_one_converter(published):
    for golden, name in (('erfnet_A', 'erfnet'), ('enet_full_A', 'enet')):
        weights = published(golden)
        assert [other for other, module in MODULES.items() if module.fits(weights)] == [name]


def test_options_are_read_without_an_import():
    for name, module in MODULES.items():
        tree = ast.parse(Path(module.__file__).read_text())
        options, = [ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign)
                    and node.targets[0].id == 'OPTIONS']
        assert options == module.OPTIONS and set(options) == (set() if name == 'resnet' else {'--input-size'})


def test_names_are_joined_and_given_back():
    modules = join_names({'stage1.0': 'layers.3', 'stage1.1': 'layers.4'}, {'conv': 'c', 'norm': 'bn'})
    rename = make_renamer(modules, {'up': 'conv_u.weight'})
    assert rename('stage1.1.norm.bias') == 'layers.4.bn.bias' and rename('up') == 'conv_u.weight'


def test_counters_may_be_missing_and_other_weights_not():
    source = {name: value for name, value in ResNet(18).state_dict().items() if 'num_batches' not in name}
    found = Conversion(ResNet, dict(depth=18), lambda name: name)
    weights, line = take_weights(source, found, 'a ResNet')
    assert line == 'model = dict(type=ResNet, depth=18)' and int(weights['stem.1.num_batches_tracked']) == 0
    name = next(iter(source))
    with pytest.raises(CheckpointError, match='1 missing names .* expected those of a ResNet'):
        take_weights({key: value for key, value in source.items() if key != name}, found, 'a ResNet')
    assert size_of(source, name, 1) == 3
    with pytest.raises(CheckpointError, match='x.weight is missing'):
        size_of(source, 'x.weight')
