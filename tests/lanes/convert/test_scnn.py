"""Names of the three projects' SCNN, written down from their descriptions."""
import numpy as np
import pytest
import torch

from perception.lanes.convert import scnn
from perception.lanes.models.scnn import SCNN, MessagePassing
from perception.utils.checkpoint import start_from
from perception.utils.errors import CheckpointError

PROJECTS = ('SCNN_Pytorch', 'PytorchAutoDrive', 'scnn_pytorch')
VGG_CONVS = {0: (3, 64), 3: (64, 64), 7: (64, 128), 10: (128, 128), 14: (128, 256), 17: (256, 256), 20: (256, 256),
             24: (256, 512), 27: (512, 512), 30: (512, 512), 34: (512, 512), 37: (512, 512), 40: (512, 512)}
PLAIN = ('1_1', '1_2', '2_1', '2_2', '3_1', '3_2', '3_3', '4_1', '4_2', '4_3', '5_1', '5_2', '5_3')
PASSES = dict(down=(1, 9), up=(1, 9), right=(9, 1), left=(9, 1))


def scnn_names(project, num_classes=5, positions=18 * 50):
    """Name -> shape of the three projects' nets, written down from their descriptions."""
    vgg, neck, directions, heads = {
        'SCNN_Pytorch': ('backbone.{}', 'layer1', dict(
            down='message_passing.up_down', up='message_passing.down_up', right='message_passing.left_right',
            left='message_passing.right_left'), ('layer2.1', 'fc.0', 'fc.2')),
        'PytorchAutoDrive': ('encoder.net.{}', 'fc67', {name: f'scnn.conv_{name[0]}' for name in PASSES},
                             ('fc8.1', 'lane_classifier.linear1', 'lane_classifier.linear2')),
        'scnn_pytorch': (None, None, {name: f'conv_{name[0]}' for name in PASSES}, ('conv8', 'fc9', 'fc10'))}[project]
    shapes = {}

    def add(conv, norm, into, out, kernel, bias):
        shapes[f'{conv}.weight'] = (out, into, kernel, kernel)
        shapes.update({f'{conv}.bias': (out,)} if bias else {})
        shapes.update({f'{norm}.{leaf}': (out,) for leaf in ('weight', 'bias', 'running_mean', 'running_var')})

    for (place, (into, out)), block in zip(VGG_CONVS.items(), PLAIN):
        names = (vgg.format(place), vgg.format(place + 1)) if vgg else (f'conv{block}', f'bn{block}')
        add(*names, into, out, 3, bias=vgg is not None)
    for k, place, into, out, kernel in ((6, 0, 512, 1024, 3), (7, 3, 1024, 128, 1)):
        names = (f'{neck}.{place}', f'{neck}.{place + 1}') if neck else (f'conv{k}', f'bn{k}')
        add(*names, into, out, kernel, bias=False)
    for name, kernel in PASSES.items():
        shapes[f'{directions[name]}.weight'] = (128, 128, *kernel)
        shapes.update({f'{directions[name]}.bias': (128,)} if project == 'PytorchAutoDrive' else {})
    for name, shape in zip(heads, ((num_classes, 128, 1, 1), (128, positions * num_classes), (num_classes - 1, 128))):
        shapes.update({f'{name}.weight': shape, f'{name}.bias': shape[:1]})
    return shapes


@pytest.fixture
def scnn_weights():
    def make(project, **sizes):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return {name: torch.rand(shape) for name, shape in scnn_names(project, **sizes).items()}
    return make


@pytest.mark.parametrize('project', PROJECTS)
def test_every_number_of_an_scnn_arrives_once(convert, scnn_weights, project):
    source = scnn_weights(project)
    weights, net, arguments = convert(scnn, dict(source))
    with torch.device('meta'):
        net(**arguments).load_state_dict(weights, assign=True)
    assert net is SCNN and arguments['input_size'] == (288, 800) and arguments['num_lanes'] == 4
    assert arguments.get('legacy', False) == (project == 'PytorchAutoDrive')
    assert ('bgr' not in arguments['data_preprocessor'])
    assert arguments['data_preprocessor'].get('mean') == (None if project == 'PytorchAutoDrive' else
                                                          (91.75, 93.15, 93.38))
    sums = sorted(float(value.sum()) for name, value in weights.items() if 'num_batches' not in name)
    absent = 13 if project == 'scnn_pytorch' else 0  # biases of VGG's convolutions, which are 0
    assert sums == [0] * absent + sorted(float(value.sum()) for value in source.values())


def test_passes_and_blocks_of_an_scnn_land_in_their_places(convert, scnn_weights):
    ours = {project: convert(scnn, scnn_weights(project))[0] for project in ('SCNN_Pytorch', 'scnn_pytorch')}
    theirs = {project: scnn_weights(project) for project in ours}
    for project, down, left, conv4_2, norm5_3 in (
            ('SCNN_Pytorch', 'message_passing.up_down', 'message_passing.right_left', 'backbone.27', 'backbone.41'),
            ('scnn_pytorch', 'conv_d', 'conv_l', 'conv4_2', 'bn5_3')):
        weights, source = ours[project], theirs[project]
        assert torch.equal(weights['message.down'], source[f'{down}.weight'][:, :, 0])
        assert torch.equal(weights['message.left'], source[f'{left}.weight'][:, :, :, 0])
        assert torch.equal(weights['stage2.4.weight'], source[f'{conv4_2}.weight'])
        assert torch.equal(weights['stage3.7.running_var'], source[f'{norm5_3}.running_var'])


def test_auto_drives_scnn_of_tusimple_and_without_lanes(convert, scnn_weights):
    source = scnn_weights('PytorchAutoDrive', num_classes=7, positions=22 * 40)
    _, _, arguments = convert(scnn, dict(source))
    assert (arguments['num_classes'], arguments['num_lanes'], arguments['input_size']) == (7, 6, (360, 640))
    source = {name: value for name, value in source.items() if not name.startswith('lane_classifier')}
    _, _, arguments = convert(scnn, source)
    assert arguments['num_lanes'] == 0 and 'input_size' not in arguments


@pytest.mark.parametrize('bias', [False, True])
def test_auto_drives_passes_equal_its_own(shared, bias):
    with np.load(shared / 'goldens/scnn_A.npz') as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files}
    module = MessagePassing(8, legacy=True)
    with torch.no_grad():
        for name in PASSES:
            getattr(module, name).copy_(arrays[f'weight_{name[0]}'].flatten(2))
            getattr(module, f'{name}_bias').copy_(arrays[f'bias_{name[0]}'] * bias)
        theirs = arrays['output_pad_bias' if bias else 'output_pad_nobias']
        assert float((module(arrays['input']) - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max())


def test_damaged_scnns_are_refused(convert, scnn_weights):
    source = scnn_weights('SCNN_Pytorch')
    turned = source['message_passing.up_down.weight'].transpose(2, 3)
    with pytest.raises(CheckpointError, match=r'up_down\.weight of shape \(128, 128, 9, 1\), expected \(128, 128, 9\)'):
        convert(scnn, dict(source, **{'message_passing.up_down.weight': turned}))
    with pytest.raises(CheckpointError, match=r'1 missing names \(backbone\.27\.weight\) and 1 unknown ones \(extra\)'):
        convert(scnn, {name: value for name, value in source.items() if name != 'backbone.27.weight'}
                      | dict(extra=torch.zeros(1)))
    with pytest.raises(CheckpointError, match=r'fc\.2\.weight is missing, expected a whole net'):
        convert(scnn, {name: value for name, value in source.items() if name != 'fc.2.weight'})


@pytest.mark.parametrize('project', PROJECTS)
def test_the_weights_that_came_stay_as_they_are(convert, scnn_weights, project):
    source = scnn_weights(project)
    shapes = {name: value.shape for name, value in source.items()}
    convert(scnn, source)
    assert {name: value.shape for name, value in source.items()} == shapes


def test_scnn_starts_from_torchvisions_vgg():
    net, source = SCNN(), {}
    for place, (into, out) in VGG_CONVS.items():
        source |= {f'features.{place}.weight': torch.rand(out, into, 3, 3), f'features.{place}.bias': torch.rand(out)}
        source |= {f'features.{place + 1}.{leaf}': torch.rand(out) for leaf in ('weight', 'bias', 'running_mean',
                                                                              'running_var')}
    weights, usage = scnn.convert(source | {'classifier.0.weight': torch.rand(1)}, None)
    assert scnn.fits(source) and 'load_from=FILE' in usage and len(weights) == len(source) + len(VGG_CONVS)
    assert not torch.equal(net.stage3[6].weight, source['features.40.weight'])
    assert start_from(net, weights).startswith('checkpoint: 91 of 111 weights loaded')
    assert torch.equal(net.stage3[6].weight, source['features.40.weight'])
