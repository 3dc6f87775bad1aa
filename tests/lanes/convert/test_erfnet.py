"""ERFNet's published names, as the golden has them; its outputs are in the tests of the net."""
from argparse import Namespace

import pytest
import torch

from perception.lanes.convert import erfnet
from perception.lanes.models.erfnet import ERFNet
from perception.utils.errors import CheckpointError

CAFFE_LINE = ('model = dict(type=ERFNet, data_preprocessor=dict(type=ImagePreprocessor, mean=(103.939, 116.779, '
              '123.68), std=(1, 1, 1), bgr=True), num_classes=5, num_lanes=4, input_size=(208, 976))')


@pytest.fixture(scope='module')
def source(published):
    return published('erfnet_A')


def test_every_published_number_arrives_once(check_takeover, source):
    check_takeover(erfnet, source)


def test_the_line_of_the_config_tells_sizes_and_normalisation(source):
    assert erfnet.convert(source, Namespace(input_size=None))[1] == CAFFE_LINE


def test_pytorch_auto_drives_erfnet_has_another_name_for_its_head(convert, source):
    source = {key.replace('lane_exist.', 'lane_classifier.'): value for key, value in source.items()}
    weights, net, arguments = convert(erfnet, source)
    assert net is ERFNet and not arguments['data_preprocessor'].get('bgr')
    assert torch.equal(weights['exist.classifier.0.weight'], source['lane_classifier.linear1.weight'])


def test_students_without_existence_head(convert, source):
    """37 classes of ApolloScape."""
    source = {key: value for key, value in source.items() if not key.startswith('lane_exist.')}
    source |= {'decoder.output_conv.weight': torch.rand(16, 37, 2, 2), 'decoder.output_conv.bias': torch.rand(37),
               'encoder.output_conv.weight': torch.rand(37, 128, 1, 1), 'encoder.output_conv.bias': torch.rand(37)}
    weights, net, arguments = convert(erfnet, source)
    assert (arguments['num_classes'], arguments['num_lanes']) == (37, 0)
    assert sum(value.numel() for name, value in net(**arguments).named_parameters()) == 2_070_134
    net(**arguments).load_state_dict(weights)


def test_incomplete_files_are_refused(convert, source):
    def refused(changed, message):
        with pytest.raises(CheckpointError, match=message):
            convert(erfnet, changed)

    refused({name: value for name, value in source.items() if name != 'encoder.layers.7.bn1.weight'},
            r'1 missing names \(encoder\.layers\.7\.bn1\.weight\) and 0 unknown.*expected those of ERFNet')
    refused(dict(source, extra=torch.zeros(1)), r'0 missing names.*1 unknown ones \(extra\)')
    refused({name: value for name, value in source.items() if 'decoder' not in name},
            r'decoder\.output_conv\.weight is missing')
    refused({name: value for name, value in source.items() if 'linear2' not in name},
            r'lane_exist\.linear2\.weight is missing')
    refused(dict(source, **{'encoder.layers.0.conv.weight': torch.zeros(48, 15, 3, 3)}),
            r'encoder\.layers\.0\.conv\.weight of shape \(48, 15, 3, 3\), expected')
