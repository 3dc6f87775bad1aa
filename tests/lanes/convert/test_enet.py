"""ENet's published names, as the golden has them; its outputs are in the tests of the net."""
from argparse import Namespace

import pytest
import torch

from perception.lanes.convert import enet
from perception.lanes.models.enet import ENet
from perception.utils.errors import CheckpointError

SIZE = (64, 128)


@pytest.fixture(scope='module')
def source(published):
    return published('enet_full_A')


def test_every_published_number_arrives_once(check_takeover, source):
    check_takeover(enet, source, SIZE)


def test_the_line_of_the_config_tells_sizes_and_normalisation(source):
    line = enet.convert(source, Namespace(input_size=list(SIZE)))[1]
    assert line == ('model = dict(type=ENet, data_preprocessor=dict(type=ImagePreprocessor), num_classes=5, '
                    'num_lanes=4, input_size=(64, 128))')


def test_its_head_for_six_lanes_has_five_channels(convert, source):
    """TuSimple at 360 x 640: 5 x 22 x 40 = 4400 values."""
    source = dict(source)
    source |= {'decoder.transposed_conv.weight': torch.rand(16, 7, 3, 3),
               'lane_classifier.linear1.weight': torch.rand(128, 4400),
               'lane_classifier.linear2.weight': torch.rand(6, 128), 'lane_classifier.linear2.bias': torch.rand(6)}
    weights, net, arguments = convert(enet, source)
    arguments.pop('data_preprocessor')
    assert arguments == dict(num_classes=7, num_lanes=6, exist_channels=5, input_size=(360, 640))
    ENet(**arguments).load_state_dict(weights)


def test_an_unusual_input_size_has_to_be_given(convert, source):
    with pytest.raises(CheckpointError, match='linear1.weight of shape .* its input size has to be given'):
        convert(enet, source)
    assert convert(enet, source, SIZE)[2]['input_size'] == SIZE
