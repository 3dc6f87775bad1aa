"""Every method on every LiDAR backbone: its losses are numbers, not zero, and can be learned by themselves."""
import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement

from perception.apis.config import load_config
from perception.common.structures import PointSegSample
from perception.distill.distiller import Distiller
from perception.distill.kd import KDLoss
from perception.distill.teachers import FrozenTeacher
from perception.lidarseg.models.cylinder3d import Cylinder3D
from perception.lidarseg.models.minkunet import MinkUNet
from perception.lidarseg.preprocessor import CubeVoxelizer, CylinderVoxelizer
from perception.registry import MODELS
from perception.utils.errors import ConfigError

METHODS = ('kd', 'cd', 'ifv', 'skd', 'ka', 'pvd')
BACKBONES = ('cylinder3d', 'minkunet', 'spvnas')


def distiller(method, backbone, mini):
    cfg = load_config(f'configs/{method}/{backbone}_kitti.py', mini)
    cfg.model.teachers.full.trained_by = None
    return MODELS.build(cfg.model)


def toy_batch(num_points=3000):
    """One scan: noisy ground, and two classes of clutter on it."""
    rng = np.random.default_rng(0)
    xy = rng.uniform(-25, 25, (num_points, 2))
    labels = rng.choice([8, 5, 12, 255], num_points, p=[.6, .1, .25, .05])
    z = np.where(labels == 8, -1.7, rng.uniform(-1.7, 1, num_points)) + rng.normal(0, .05, num_points)
    points = np.column_stack([xy, z, rng.uniform(0, 1, num_points)]).astype(np.float32)
    return dict(inputs=dict(points=[torch.from_numpy(points)]),
                data_samples=[BaseDataElement(labels=torch.from_numpy(labels))])


@pytest.mark.parametrize('backbone', BACKBONES)
@pytest.mark.parametrize('method', METHODS)
def test_each_loss_is_a_number_and_is_learned_alone(method, backbone):
    torch.manual_seed(0)
    model = distiller(method, backbone, mini=True).train()
    batch = model.data_preprocessor(toy_batch(), training=True)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    totals = []
    for _ in range(8):
        torch.manual_seed(1)  # the same positions and supervoxels are drawn
        losses = {name: value for name, value in model(**batch, mode='loss').items()
                  if name.startswith(f'loss_{method}')}
        if not totals:
            assert losses
            assert all(value.isfinite() and value > 0 for value in losses.values()), losses
        total = sum(losses.values())
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        totals.append(float(total.detach()))
    assert min(totals[-2:]) < .98 * totals[0], totals
    grads = [p.grad for p in model.student.parameters() if p.grad is not None]
    assert any(grad.abs().max() > 0 for grad in grads)
    assert all(p.grad is None for p in model.teachers.parameters())


@pytest.mark.parametrize('mini', [False, True])
@pytest.mark.parametrize('backbone', BACKBONES)
def test_what_predicts_is_taught_and_adapters_fit(backbone, mini):
    with torch.device('meta'):
        ka, kd = (distiller(method, backbone, mini) for method in ('ka', 'kd'))
    student, teacher = ka.student, ka.teachers['full'].model
    channels = [4 * net.backbone.context.norms[0].num_features // 2 if backbone == 'cylinder3d'
                else net.backbone.out_channels for net in (student, teacher)]
    assert [ka.losses['ka'].adapter.in_features, ka.losses['ka'].encoder[0].in_features] == channels
    assert channels[0] < channels[1]
    assert kd.taps['voxel_logits'] == 'head'


# --- a teacher of another kind ---------------------------------------------------------------------------------------
CYLINDER = dict(type=Cylinder3D, base_channels=4, compression=4, point_channels=16, point_widths=(8, 8, 16),
                refine='mirror', data_preprocessor=dict(type=CylinderVoxelizer, grid_shape=(48, 36, 8)))


def cubes(size=1., **options):
    return dict(type=MinkUNet, width=.125, data_preprocessor=dict(type=CubeVoxelizer, voxel_size=size, **options))


def taught(student, teacher, **options):
    taps = dict(logits='point_logits')
    return Distiller(student, taps, dict(kd=dict(type=KDLoss, teacher='full', mask_ignored=False, classes=19)),
                     dict(full=dict(type=FrozenTeacher, model=teacher, taps=taps, **options)))


@pytest.mark.parametrize(('student', 'teacher'), [
    (cubes(max_voxels=500), CYLINDER), (CYLINDER, cubes(.5)), (cubes(1.), cubes(.5))], ids=['mink', 'cyl', 'fine'])
def test_a_net_of_other_voxels_teaches_points(student, teacher):
    torch.manual_seed(0)
    model = taught(student, teacher, own_voxels=True).train()
    assert not any('teacher' in name for name in model.state_dict())
    batch = model.data_preprocessor(toy_batch(), training=True)
    losses = model(**batch, mode='loss')
    points, full = batch['inputs']['points'], model.teachers['full']
    assert len(points) == 3000 or student['data_preprocessor'].get('max_voxels')
    alone = MODELS.build(teacher['data_preprocessor'])(dict(inputs=dict(points=[points])))  # as it voxelises a scan
    with torch.no_grad():
        expected = full.model(alone['inputs'])['point_logits'][:, :19]
        ours = full.observe(dict(inputs=batch['inputs'], data_samples=None))['logits'][:, :19]
    assert torch.equal(ours, expected) and len(ours) == len(points)
    losses['loss_kd'].backward()
    assert losses['loss_kd'] > 0 and any(p.grad is not None for p in model.student.parameters())
    sample = full.model(full.own(batch['inputs']), [PointSegSample()], mode='predict')[0]
    assert torch.equal(sample.pred_labels, expected.argmax(1))


def test_what_does_not_fit_is_one_sentence():
    with pytest.raises(ConfigError, match='takes the voxels of a CylinderVoxelizer.*own_voxels=True'):
        taught(cubes(), CYLINDER)
    with pytest.raises(ConfigError, match='own_voxels=True for a MinkUNet with a .*expected a data preprocessor with'):
        taught(cubes(), dict(type=MinkUNet, width=.125), own_voxels=True)
