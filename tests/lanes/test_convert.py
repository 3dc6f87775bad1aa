"""Published names, as the goldens and torchvision have them; the outputs themselves are in the networks' tests."""
import runpy
import subprocess
import sys

import numpy as np
import pytest
import torch

from perception.common.nets.resnet import ResNet
from perception.lanes.convert import CONVERTERS, convert_lanes, model_line
from perception.lanes.models.enet import ENet
from perception.lanes.models.erfnet import ERFNet
from perception.lanes.models.resnet_seg import ResNetSeg
from perception.lanes.models.scnn import SCNN, MessagePassing
from perception.utils.errors import CheckpointError

GOLDENS = {'erfnet_A': None, 'enet_full_A': (64, 128)}
CAFFE_LINE = ('model = dict(type=ERFNet, data_preprocessor=dict(type=ImagePreprocessor, mean=(103.939, 116.779, '
              '123.68), std=(1, 1, 1), bgr=True), num_classes=5, num_lanes=4, input_size=(208, 976))')


@pytest.fixture(scope='module')
def published(shared):
    """Weights with the names of their projects, by golden."""
    def read(name):
        with np.load(shared / f'goldens/{name}.npz') as file:
            return {key[11:]: torch.from_numpy(file[key]).float() for key in file.files if key.startswith('state_dict')}
    return {name: read(name) for name in GOLDENS}


def numbers(weights):
    """All values but those of the counters, in order of size."""
    return torch.cat([value.flatten() for name, value in weights.items() if 'num_batches' not in name]).sort().values


@pytest.mark.parametrize(('name', 'size'), GOLDENS.items())
def test_every_published_number_arrives_once(published, name, size):
    source = published[name]
    weights, net, arguments = convert_lanes(source, size)
    net(**arguments).load_state_dict(weights)
    assert torch.equal(numbers(weights), numbers(source))
    assert all(value.data_ptr() not in {v.data_ptr() for v in source.values()} for value in weights.values())


@pytest.mark.parametrize(('name', 'size'), GOLDENS.items())
def test_checkpoints_of_training_runs_are_taken(published, name, size):
    source = {f'module.{key}': value for key, value in published[name].items()}
    weights = convert_lanes(dict(epoch=12, arch='erfnet', state_dict=source, best_mIoU=0.5), size)[0]
    expected = convert_lanes(published[name], size)[0]
    assert list(weights) == list(expected) and all(torch.equal(weights[key], expected[key]) for key in weights)


def test_the_line_of_the_config_tells_sizes_and_normalisation(published):
    _, net, arguments = convert_lanes(published['erfnet_A'])
    assert model_line(net, arguments) == CAFFE_LINE
    _, net, arguments = convert_lanes(published['enet_full_A'], (64, 128))
    assert model_line(net, arguments) == ('model = dict(type=ENet, data_preprocessor=dict(type=ImagePreprocessor), '
                                          'num_classes=5, num_lanes=4, input_size=(64, 128))')


def test_pytorch_auto_drives_erfnet_has_another_name_for_its_head(published):
    source = {key.replace('lane_exist.', 'lane_classifier.'): value for key, value in published['erfnet_A'].items()}
    weights, net, arguments = convert_lanes(source)
    assert net is ERFNet and not arguments['data_preprocessor'].get('bgr')
    assert torch.equal(weights['exist.classifier.0.weight'], source['lane_classifier.linear1.weight'])


def test_its_head_for_six_lanes_has_five_channels(published):
    """TuSimple at 360 x 640: 5 x 22 x 40 = 4400 values."""
    source = dict(published['enet_full_A'])
    source |= {'decoder.transposed_conv.weight': torch.rand(16, 7, 3, 3),
               'lane_classifier.linear1.weight': torch.rand(128, 4400),
               'lane_classifier.linear2.weight': torch.rand(6, 128), 'lane_classifier.linear2.bias': torch.rand(6)}
    weights, net, arguments = convert_lanes(source)
    arguments.pop('data_preprocessor')
    assert arguments == dict(num_classes=7, num_lanes=6, exist_channels=5, input_size=(360, 640))
    ENet(**arguments).load_state_dict(weights)


def test_students_without_existence_head(published):
    """37 classes of ApolloScape."""
    source = {key: value for key, value in published['erfnet_A'].items() if not key.startswith('lane_exist.')}
    source |= {'decoder.output_conv.weight': torch.rand(16, 37, 2, 2), 'decoder.output_conv.bias': torch.rand(37),
               'encoder.output_conv.weight': torch.rand(37, 128, 1, 1), 'encoder.output_conv.bias': torch.rand(37)}
    weights, net, arguments = convert_lanes(source)
    assert (arguments['num_classes'], arguments['num_lanes']) == (37, 0)
    assert sum(value.numel() for name, value in net(**arguments).named_parameters()) == 2_070_134
    net(**arguments).load_state_dict(weights)


# --- ResNet --------------------------------------------------------------------------------------------------------
def torchvision_names(depth):
    """The names of torchvision's nets, written down from their description; every value is another."""
    norm = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
    names = ['conv1.weight', *(f'bn1.{leaf}' for leaf in norm)]
    for stage, count in enumerate({18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth], start=1):
        for block in range(count):
            prefix = f'layer{stage}.{block}'
            for k in range(1, 3 if depth == 18 else 4):
                names += [f'{prefix}.conv{k}.weight', *(f'{prefix}.bn{k}.{leaf}' for leaf in norm)]
            if block == 0 and (stage > 1 or depth == 50):
                names += [f'{prefix}.downsample.0.weight', *(f'{prefix}.downsample.1.{leaf}' for leaf in norm)]
    return names


@pytest.mark.parametrize('depth', [18, 50])
def test_torchvisions_names_in_their_order(depth):
    net = ResNet(depth)
    names = torchvision_names(depth)
    source = {name: torch.rand_like(value.float()) for name, value in zip(names, net.state_dict().values())}
    assert len(source) == len(net.state_dict())
    weights, kind, arguments = convert_lanes(dict(source, **{'fc.weight': torch.rand(9, 9), 'fc.bias': torch.rand(9)}))
    assert kind is ResNet and arguments == dict(depth=depth)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(weights.values(), source.values()))


def test_a_network_starts_from_a_converted_backbone(tmp_path):
    backbone = ResNet(18).state_dict()
    torch.save(backbone, tmp_path / 'resnet18.pth')
    net = ResNetSeg(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'resnet18.pth')))
    net.init_weights()
    assert all(torch.equal(net.state_dict()[name], value) for name, value in backbone.items())


def test_a_resnet_of_other_depth_is_refused():
    source = {f'layer{n}.{k}.conv1.weight': torch.rand(1) for n in (1, 2, 3, 4) for k in range(5)}
    with pytest.raises(CheckpointError, match=r'\(5, 5, 5, 5\) blocks, expected one of depth 18, 34, 50, 101'):
        convert_lanes(source)


# --- SCNN ----------------------------------------------------------------------------------------------------------
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


@pytest.mark.parametrize('project', ['SCNN_Pytorch', 'PytorchAutoDrive', 'scnn_pytorch'])
def test_every_number_of_an_scnn_arrives_once(scnn_weights, project):
    source = scnn_weights(project)
    weights, net, arguments = convert_lanes(dict(source))
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


def test_passes_and_blocks_of_an_scnn_land_in_their_places(scnn_weights):
    ours = {project: convert_lanes(scnn_weights(project))[0] for project in ('SCNN_Pytorch', 'scnn_pytorch')}
    theirs = {project: scnn_weights(project) for project in ours}
    for project, down, left, conv4_2, norm5_3 in (
            ('SCNN_Pytorch', 'message_passing.up_down', 'message_passing.right_left', 'backbone.27', 'backbone.41'),
            ('scnn_pytorch', 'conv_d', 'conv_l', 'conv4_2', 'bn5_3')):
        weights, source = ours[project], theirs[project]
        assert torch.equal(weights['message.down'], source[f'{down}.weight'][:, :, 0])
        assert torch.equal(weights['message.left'], source[f'{left}.weight'][:, :, :, 0])
        assert torch.equal(weights['stage2.4.weight'], source[f'{conv4_2}.weight'])
        assert torch.equal(weights['stage3.7.running_var'], source[f'{norm5_3}.running_var'])


def test_auto_drives_scnn_of_tusimple_and_without_lanes(scnn_weights):
    source = scnn_weights('PytorchAutoDrive', num_classes=7, positions=22 * 40)
    _, _, arguments = convert_lanes(dict(source))
    assert (arguments['num_classes'], arguments['num_lanes'], arguments['input_size']) == (7, 6, (360, 640))
    source = {name: value for name, value in source.items() if not name.startswith('lane_classifier')}
    _, _, arguments = convert_lanes(source)
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


def test_damaged_scnns_are_refused(scnn_weights):
    source = scnn_weights('SCNN_Pytorch')
    turned = source['message_passing.up_down.weight'].transpose(2, 3)
    with pytest.raises(CheckpointError, match=r'up_down\.weight of shape \(128, 128, 9, 1\), expected \(128, 128, 9\)'):
        convert_lanes(dict(source, **{'message_passing.up_down.weight': turned}))
    with pytest.raises(CheckpointError, match=r'1 missing names \(backbone\.27\.weight\) and 1 unknown ones \(extra\)'):
        convert_lanes({name: value for name, value in source.items() if name != 'backbone.27.weight'}
                      | dict(extra=torch.zeros(1)))
    with pytest.raises(CheckpointError, match=r'fc\.2\.weight is missing, expected a whole net'):
        convert_lanes({name: value for name, value in source.items() if name != 'fc.2.weight'})


# --- bad files -----------------------------------------------------------------------------------------------------
def test_foreign_and_incomplete_files_are_refused(published):
    with pytest.raises(CheckpointError, match='names such as backbone.conv.weight, expected weights of ERFNet'):
        convert_lanes({'backbone.conv.weight': torch.zeros(3)})
    source = published['erfnet_A']
    missing = {name: value for name, value in source.items() if name != 'encoder.layers.7.bn1.weight'}
    with pytest.raises(CheckpointError, match=r'1 missing names \(encoder\.layers\.7\.bn1\.weight\) and 0 unknown'):
        convert_lanes(missing)
    with pytest.raises(CheckpointError, match=r'0 missing names.*1 unknown ones \(extra\)'):
        convert_lanes(dict(source, extra=torch.zeros(1)))
    with pytest.raises(CheckpointError, match=r'decoder\.output_conv\.weight is missing'):
        convert_lanes({name: value for name, value in source.items() if 'decoder' not in name})
    with pytest.raises(CheckpointError, match=r'lane_exist\.linear2\.weight is missing'):
        convert_lanes({name: value for name, value in source.items() if 'linear2' not in name})
    with pytest.raises(CheckpointError, match=r'encoder\.layers\.0\.conv\.weight of shape \(48, 15, 3, 3\), expected'):
        convert_lanes(dict(source, **{'encoder.layers.0.conv.weight': torch.zeros(48, 15, 3, 3)}))


def test_an_unusual_input_size_has_to_be_given(published):
    source = published['enet_full_A']
    with pytest.raises(CheckpointError, match='linear1.weight of shape .* its input size has to be given'):
        convert_lanes(source)
    assert convert_lanes(source, [64, 128])[2]['input_size'] == (64, 128)


def test_marks_tell_the_projects_apart(published, scnn_weights):
    nets = [scnn_weights(project) for project in ('SCNN_Pytorch', 'PytorchAutoDrive', 'scnn_pytorch')]
    for source in [*published.values(), *nets]:
        assert sum(known.mark in source for known in CONVERTERS) == 1


# --- the tool ------------------------------------------------------------------------------------------------------
def run_tool(root, *arguments):
    return subprocess.run([sys.executable, root / 'tools/convert_checkpoint.py', *arguments], capture_output=True,
                          text=True)


def test_the_tool_writes_what_the_net_loads(root, published, tmp_path):
    torch.save(dict(state_dict=published['enet_full_A']), tmp_path / 'theirs.pt')
    run = run_tool(root, tmp_path / 'theirs.pt', tmp_path / 'ours.pth', '--input-size', '64', '128')
    assert run.returncode == 0, run.stderr
    assert 'use with: model = dict(type=ENet' in run.stdout
    ENet(input_size=(64, 128)).load_state_dict(torch.load(tmp_path / 'ours.pth', weights_only=True))


def test_the_tool_takes_weights_under_the_name_net(root, scnn_weights, tmp_path, capsys, monkeypatch):
    torch.save(dict(epoch=0, net=scnn_weights('SCNN_Pytorch'), optim=None), tmp_path / 'vgg_SCNN_DULR_w9.pth')
    tool = root / 'tools/convert_checkpoint.py'
    monkeypatch.setattr(sys, 'argv', [str(tool), str(tmp_path / 'vgg_SCNN_DULR_w9.pth'), str(tmp_path / 'ours.pth')])
    runpy.run_path(str(tool), run_name='__main__')
    printed = capsys.readouterr().out
    assert ('use with: model = dict(type=SCNN, data_preprocessor=dict(type=ImagePreprocessor, mean=(91.75, 93.15, '
            '93.38), std=(65.61, 67.91, 70.28)), num_classes=5, num_lanes=4, input_size=(288, 800))') in printed
