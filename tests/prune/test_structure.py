"""A structure on disk, in checkpoints, and what is refused."""
import copy
import json

import pytest
import torch
from torch import nn

from perception.prune.models.classifier import ImageClassifier
from perception.prune.search import PEEL
from perception.utils.checkpoint import load_checkpoint, load_weights, save_atomic, start_from
from perception.utils.errors import CheckpointError, ConfigError
from perception.utils.structure import FORMAT, apply_structure, read_structure
from tests.prune.conftest import images, running, trained

pytest.importorskip('torch_pruning')


def small() -> ImageClassifier:
    return ImageClassifier(net='resnet18', num_classes=5, width=0.125)


@pytest.fixture(scope='module')
def case():
    torch.manual_seed(0)
    model = trained(small())
    structure = PEEL(divisor=2).search(model, [running(images(32, 32))]).structure
    return model, structure, apply_structure(copy.deepcopy(model), structure)


def outputs(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(images(32, 32), mode='tensor')['logits']


@pytest.fixture
def files(case, tmp_path):
    """A structure file, and the checkpoint of the slim net as a training leaves it."""
    model, structure, slim = case
    (tmp_path / 's.json').write_text(json.dumps(structure))
    save_atomic(dict(state_dict=slim.state_dict(), meta=dict(structure=slim.structure)), tmp_path / 'slim.pth')
    save_atomic(model.state_dict(), tmp_path / 'whole.pth')
    return tmp_path


def test_a_slim_net_is_built_from_its_file_and_loads_its_weights(case, files):
    rebuilt = apply_structure(small(), read_structure(files / 's.json'))
    load_weights(rebuilt, files / 'slim.pth')
    assert torch.equal(outputs(rebuilt), outputs(case[2]))
    checkpoint = torch.load(files / 'slim.pth', weights_only=True)
    assert checkpoint['meta']['structure'] == json.loads((files / 's.json').read_text())


def test_a_checkpoint_makes_a_whole_net_slim(case, files):
    net = small()
    load_weights(net, files / 'slim.pth')
    assert torch.equal(outputs(net), outputs(case[2]))
    assert net.structure == case[1]


def test_weights_of_the_whole_net_are_sliced(case, files):
    net = apply_structure(small(), case[1])
    load_weights(net, files / 'whole.pth')
    assert torch.equal(outputs(net), outputs(case[2]))
    net = apply_structure(small(), case[1])
    assert '122 of 122' in start_from(net, files / 'whole.pth') or 'new' not in start_from(net, files / 'whole.pth')


def test_parameters_stay_the_same_objects(case):
    net = small()
    before = list(net.parameters())
    apply_structure(net, case[1])
    assert all(one is other for one, other in zip(before, net.parameters()))
    assert net.net.backbone.stage1[0].conv1.out_channels == net.net.backbone.stage1[0].bn1.num_features == len(
        net.net.backbone.stage1[0].conv1.weight)


def test_a_student_becomes_slim(case, files):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.student = small()
    pair = Pair()
    load_weights(pair, files / 'slim.pth')
    assert torch.equal(outputs(pair.student), outputs(case[2]))
    save_atomic(dict(state_dict=pair.state_dict(), meta=dict(structure=pair.student.structure)), files / 'pair.pth')
    net = small()
    load_weights(net, files / 'pair.pth')
    assert torch.equal(outputs(net), outputs(case[2]))
    fresh = Pair()
    load_weights(fresh, load_checkpoint(files / 'pair.pth'))
    assert torch.equal(outputs(fresh.student), outputs(case[2]))


@pytest.mark.parametrize(('text', 'named'), [
    ('{', 'unreadable'), ('[]', "'list'"), ('{"format": "peel-0", "groups": []}', "'peel-0'"),
    (json.dumps(dict(format=FORMAT, groups=3)), 'int'),
    (json.dumps(dict(format=FORMAT, groups=[dict(name='a', full=4, keep=[0, 9], members=[])])), 'full=4'),
    (json.dumps(dict(format=FORMAT, groups=[dict(name='a', full=4, keep=[1, 0], members=[])])), 'ascending'),
    (json.dumps(dict(format=FORMAT, groups=[dict(name='a', full=4, keep=[], members=[])])), 'ascending'),
    (json.dumps(dict(format=FORMAT, groups=[dict(name='a', full=4, keep=[0], members=[['x', 'out', 1, 1, 1, 4]])])),
     'members')])
def test_what_is_no_structure_is_refused(tmp_path, text, named):
    (tmp_path / 's.json').write_text(text)
    with pytest.raises(ConfigError, match=named):
        read_structure(tmp_path / 's.json')


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match='none.json'):
        read_structure(tmp_path / 'none.json')


@pytest.mark.parametrize(('make', 'named'), [
    (lambda: ImageClassifier(net='mobilenet_v2', num_classes=5, width=0.25), 'net.backbone.stem.0'),
    (lambda: ImageClassifier(net='resnet18', num_classes=5, width=0.25), 'expected 8 channels')])
def test_a_structure_of_another_net_is_refused(case, make, named):
    with pytest.raises(CheckpointError, match=named):
        apply_structure(make(), case[1])


def test_a_net_is_pruned_once_and_other_widths_are_refused(case, files):
    with pytest.raises(CheckpointError, match='pruned already'):
        apply_structure(copy.deepcopy(case[2]), case[1])
    other = copy.deepcopy(case[1])
    other['groups'][3]['keep'] = other['groups'][3]['keep'][:-1]
    net = apply_structure(small(), other)
    with pytest.raises(CheckpointError, match='other widths'):
        load_weights(net, files / 'slim.pth')
