"""tools/convert_checkpoint.py on weights of lane nets, as their projects save them."""
import re
import runpy
import sys

import pytest
import torch

from perception.lanes.models.enet import ENet
from perception.prune.models.classifier import ImageClassifier, ResNetClassifier


@pytest.fixture
def convert_file(root, tmp_path, monkeypatch, capsys):
    """Runs the tool on a checkpoint: to the weights it writes and what it prints."""
    def run(checkpoint, *options):
        torch.save(checkpoint, tmp_path / 'theirs.pt')
        tool = root / 'tools/convert_checkpoint.py'
        monkeypatch.setattr(sys, 'argv', [str(tool), str(tmp_path / 'theirs.pt'), str(tmp_path / 'ours.pth'), *options])
        runpy.run_path(str(tool), run_name='__main__')
        return torch.load(tmp_path / 'ours.pth', weights_only=True), ''.join(capsys.readouterr())
    return run


def test_it_writes_what_the_net_loads(convert_file, published):
    weights, printed = convert_file(dict(state_dict=published('enet_full_A')), '--input-size', '64', '128')
    assert 'use with: model = dict(type=ENet' in printed and 'input_size=(64, 128))' in printed
    ENet(input_size=(64, 128)).load_state_dict(weights)


def test_checkpoints_of_training_runs_are_taken(convert_file, published):
    source = published('erfnet_A')
    wrapped = dict(epoch=12, arch='erfnet', state_dict={f'module.{key}': v for key, v in source.items()}, best_mIoU=0.5)
    weights, expected = convert_file(wrapped)[0], convert_file(source)[0]
    assert list(weights) == list(expected) and all(torch.equal(weights[key], expected[key]) for key in weights)


def test_weights_may_stand_under_the_name_net(convert_file, published):
    printed = convert_file(dict(epoch=0, net=published('erfnet_A'), optim=None))[1]
    assert 'use with: model = dict(type=ERFNet' in printed and 'input_size=(208, 976))' in printed


def test_a_file_that_two_rooms_take(convert_file):
    net = ResNetClassifier(18, 10)
    theirs = {re.sub(r'^backbone\.', '', name).replace('stem.0', 'conv1').replace('stem.1', 'bn1').replace(
        'stage', 'layer'): value for name, value in net.state_dict().items()}
    weights, printed = convert_file(theirs)
    assert 'a net with ResNet-18' in printed and 'for nets of prune: --room prune' in printed
    assert 'stem.0.weight' in weights
    weights, printed = convert_file(theirs, '--room', 'prune')
    assert 'dict(type=ImageClassifier' in printed and '--room' not in printed
    ImageClassifier(net='resnet18', num_classes=10).load_state_dict(weights)
