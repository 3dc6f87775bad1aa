"""Nets that vote: the mean of probabilities, of all nets of the room, bare or with augmented views."""
import numpy as np
import pytest
import torch

from perception.common.structures import PointSegSample
from perception.lidarseg.models.cylinder3d import Cylinder3D
from perception.lidarseg.models.minkunet import MinkUNet
from perception.lidarseg.models.spvcnn import SPVCNN
from perception.lidarseg.models.spvnas import SPVNAS
from perception.lidarseg.preprocessor import CubeVoxelizer, CylinderVoxelizer
from perception.lidarseg.voting import EnsembleSegmentor, TTASegmentor, moved, view_matrices
from perception.utils.errors import ConfigError

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]
CUBES = dict(type=CubeVoxelizer, voxel_size=1.0)
NETS = dict(
    cylinder3d=lambda classes: Cylinder3D(dict(type=CylinderVoxelizer, grid_shape=(24, 18, 8)), classes,
                                          base_channels=2, compression=4, point_channels=8, point_widths=(4, 8, 8)),
    minkunet=lambda classes: MinkUNet(CUBES, classes, width=0.1),
    spvcnn=lambda classes: SPVCNN(CUBES, classes, width=0.1),
    spvnas=lambda classes: SPVNAS(CUBES, classes, net='65GMACs', ratio=0.1))


def net(name, classes=19, seed=0):
    torch.manual_seed(seed)
    model = NETS[name](classes).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):  # as after a training: no net sees the same numbers as another one
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


def scan(num_points=80, seed=0):
    points = np.random.default_rng(seed).normal(scale=(8, 8, 1, 0.3), size=(num_points, 4))
    return torch.from_numpy(points.astype(np.float32))


def batch(scans, **meta):
    samples = [PointSegSample(metainfo=dict(sample_id=f'08_{i:06d}', num_points=len(p), **meta))
               for i, p in enumerate(scans)]
    return dict(inputs=dict(points=list(scans)), data_samples=samples)


def labels(model, *scans, **meta):
    return [sample.pred_labels for sample in model.test_step(batch(scans, **meta))]


def probs_by_hand(model, points, matrices=None, of_logits=False):
    """Mean over views, one after the other, without any class of this room but the net and its voxels."""
    views = [points] if matrices is None else [moved(points, matrix) for matrix in matrices]
    found = []
    for view in views:
        data = model.data_preprocessor(dict(inputs=dict(points=[view]), data_samples=None), False)
        logits = model(**data, mode='tensor')['point_logits'].detach().double()
        found.append(logits if of_logits else logits.softmax(1))
    mean = torch.stack(found).mean(0)
    return (mean.softmax(1) if of_logits else mean)[:, :model.num_classes]


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('mode', ['flip4', 'grid36'])
@pytest.mark.parametrize('name', NETS)
def test_each_net_votes_over_views(name, mode, device):
    model, points = net(name).to(device), scan(60)
    voter = TTASegmentor(model, mode, chunk=36).eval()
    first, again = labels(voter, points), labels(voter, points)
    assert torch.equal(first[0], again[0])
    assert first[0].shape == (60,) and first[0].dtype == torch.int64 and 0 <= first[0].min() <= first[0].max() < 19
    with torch.no_grad():
        assert mode == 'grid36' or not torch.equal(TTASegmentor(model, 'flip4', seed=1).vote(points),
                                                   TTASegmentor(model, 'flip4', seed=2).vote(points))


@pytest.mark.parametrize(('name', 'mode'), [('cylinder3d', 'flip4'), ('cylinder3d', 'grid36'), ('spvnas', 'flip4'),
                                            ('spvcnn', 'grid36')])  # the deepest net is slow, one view at a time
def test_probabilities_of_views_equal_a_loop(name, mode):
    model, points = net(name), scan(40)
    with torch.no_grad():
        voter = TTASegmentor(model, mode, chunk=3 if mode == 'flip4' else 16)
        probs, vote = voter.probs(points), voter.vote(points)
    import zlib
    matrices = view_matrices(mode, np.random.default_rng([0, zlib.crc32(points.numpy().tobytes())]))
    torch.testing.assert_close(probs.double(), probs_by_hand(model, points, matrices, mode == 'flip4'),
                               atol=1e-5, rtol=1e-4)
    assert torch.equal(probs.argmax(1), vote.argmax(1))  # an ensemble of one decides as the net alone


@pytest.mark.parametrize('columns', [4, 6])
def test_views_leave_further_columns_alone(columns):
    points = torch.rand(9, columns)
    turned = moved(points, np.array([[0.0, -1], [1, 0]]))
    torch.testing.assert_close(turned[:, :2], torch.stack([-points[:, 1], points[:, 0]], 1))
    assert torch.equal(turned[:, 2:], points[:, 2:])


def test_an_ensemble_is_the_mean_of_its_members_probabilities():
    members, points = [net('cylinder3d'), net('cylinder3d', seed=1), net('minkunet'), net('spvnas')], scan()
    expected = sum(probs_by_hand(member, points) for member in members) / 4
    ensemble = EnsembleSegmentor(members)
    with torch.no_grad():
        torch.testing.assert_close(ensemble.probs(points).double(), expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(labels(ensemble, points)[0], expected.argmax(1))
    assert any(not torch.equal(labels(member, points)[0], labels(ensemble, points)[0])
               for member in (TTASegmentor(one, 'flip4') for one in members))


def test_members_with_views_give_the_probabilities_of_their_votes():
    members, points = [TTASegmentor(net('minkunet'), 'flip4'), TTASegmentor(net('cylinder3d'), 'grid36', chunk=36),
                       net('spvcnn')], scan()
    with torch.no_grad():
        expected = (members[0].probs(points) + members[1].probs(points)
                    + probs_by_hand(members[2], points).float()) / 3
        torch.testing.assert_close(EnsembleSegmentor(members).probs(points), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('wrap', [EnsembleSegmentor, lambda models: TTASegmentor(models[0], 'flip4')])
def test_several_scans_no_points_and_added_scans(wrap):
    model = wrap([net('minkunet'), net('minkunet', seed=1)])
    a, b = scan(30, 1), scan(50, 2)
    assert [len(found) for found in labels(model, a, scan(0), b)] == [30, 0, 50]
    assert torch.equal(labels(model, a, b)[0], labels(model, a)[0])
    assert [len(found) for found in labels(model, b, origin_len=20)] == [20]  # of the scan itself


def test_different_classes_are_refused():
    with pytest.raises(ConfigError, match='ensemble: models with 16 and 19 classes came, expected equal numbers'):
        EnsembleSegmentor([net('minkunet'), net('cylinder3d', 16)])
    with pytest.raises(ConfigError, match='ensemble: models with no classes'):
        EnsembleSegmentor([])
