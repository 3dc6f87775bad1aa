"""Against recorded outputs of mmdet3d's PillarFeatureNet and of an own computation without caps."""
import json

import numpy as np
import pytest
import torch

from perception.common.nets.pillars import PillarEncoder
from perception.ops.voxelize import range_voxels
from perception.utils.errors import ConfigError, DataError

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]
RANGE, PILLAR = (0, -4, -3, 8, 4, 1), (1, 1, 4)  # 8 x 8 pillars


@pytest.fixture(scope='module')
def recorded(shared):
    with np.load(shared / 'goldens/detection/pillar_second_encoder_A.npz') as file:
        return dict(file)


def scans(arrays):
    return [torch.from_numpy(arrays[f'points/{i}']).float() for i in (0, 1)]


def encoder_of(arrays, name, **options):
    start = f'{name}/state_dict/'
    weights = {key[len(start):]: torch.from_numpy(value).float() for key, value in arrays.items()
               if key.startswith(start)}
    encoder = PillarEncoder(5, arrays['point_cloud_range'].tolist(), arrays['voxel_size'].tolist(), **options)
    missing, unexpected = encoder.load_state_dict(weights, strict=False)
    assert weights and not unexpected and all(key.endswith('num_batches_tracked') for key in missing)
    return encoder.eval()


def test_cells_of_points_are_those_of_mmcv(recorded):
    for i, points in enumerate(scans(recorded)):
        rows, coords, pillar = range_voxels(points, torch.zeros(len(points), dtype=torch.long),
                                            recorded['point_cloud_range'].tolist(), recorded['voxel_size'].tolist())
        wanted = recorded[f'dynamic_coors_zyx/{i}']
        cells = np.full_like(wanted, -1)
        cells[rows] = coords[pillar, 1:]
        assert np.array_equal(cells, wanted)


@torch.no_grad()
def test_pillars_hold_all_their_points(recorded):
    encoder = encoder_of(recorded, 'pfn_legacy_false_single', channels=(16,))
    points = scans(recorded)
    batch = torch.arange(2).repeat_interleave(torch.tensor([len(scan) for scan in points]))
    pillars, coords = encoder.encode(torch.cat(points), batch)
    assert np.array_equal(coords, recorded['dynamic_numpy_eval/coors_b_z_y_x'])
    np.testing.assert_allclose(pillars, recorded['dynamic_numpy_eval/output'], rtol=0, atol=5e-5)
    canvas = encoder(points)
    assert tuple(canvas.shape) == (2, 16, *recorded['grid_x_y'][::-1])
    assert torch.equal(canvas[coords[:, 0], :, coords[:, 2], coords[:, 3]], pillars)
    assert canvas.abs().sum() == pytest.approx(float(pillars.abs().sum()), rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(('name', 'options'), [
    ('pfn_legacy_false_single', dict()), ('pfn_legacy_true_single', dict(legacy=True)),
    ('pfn_legacy_false_two_dist', dict(channels=(12, 16), with_distance=True))])
def test_pillars_are_those_of_mmdet3d_where_its_cap_does_not_bind(recorded, name, options):
    """Its pillars are filled up with zeros, over which it takes the maximum too."""
    cap = int(recorded['hard/max_num_points_max_voxels'][0])
    encoder = encoder_of(recorded, name, **dict(channels=(16,), pad_below=cap) | options)
    points = scans(recorded)
    batch = torch.arange(2).repeat_interleave(torch.tensor([len(scan) for scan in points]))
    pillars, coords = encoder.encode(torch.cat(points), batch)
    row_of = {tuple(cell): row for row, cell in enumerate(coords.tolist())}
    rows = [row_of[tuple(cell)] for cell in recorded['hard/coors_b_z_y_x'].tolist()]
    kept = recorded['hard/num_points'] < cap
    assert kept.sum() > 100
    np.testing.assert_allclose(pillars[rows][kept], recorded[f'{name}/eval_output'][kept], rtol=0, atol=5e-5)


@pytest.mark.parametrize(('name', 'prefix', 'columns'), [
    ('centerpoint_pillar02_second_secfpn_8xb4-cyclic-20e_nus-3d', 'pts_voxel_encoder.', 5),
    ('pointpillars_hv_secfpn_8xb6-160e_kitti-3d-car', 'voxel_encoder.', 4)])
def test_published_weights_fit(shared, name, prefix, columns):
    published = json.loads((shared / 'goldens/detection/pillar_second_state_dict_shapes_A.json').read_text())[name]
    ours = PillarEncoder(columns, RANGE, PILLAR).state_dict()
    assert {prefix + key: list(value.shape) for key, value in ours.items()} == {
        key: shape for key, shape in published.items() if key.startswith(prefix)}


def test_empty_scans_and_single_points_train():
    torch.manual_seed(0)
    encoder = PillarEncoder(4, RANGE, PILLAR, channels=(8, 6))
    one = torch.tensor([[2.5, .5, 0, .3], [torch.nan, 0, 0, 0], [9, 0, 0, 0]])
    for batch, cells in (([torch.zeros(0, 4)], 0), ([torch.zeros(0, 4), one], 1), ([one[:1], one[:1]], 2)):
        canvas = encoder(batch)
        assert canvas.shape == (len(batch), 6, 8, 8) and int((canvas != 0).any(1).sum()) == cells
        encoder.zero_grad()
        canvas.sum().backward()
        assert all(bool(p.grad.isfinite().all()) for p in encoder.parameters())
    assert bool((canvas[0, :, 4, 2] != 0).any())


@torch.no_grad()
def test_every_point_of_a_crowded_pillar_counts():
    torch.manual_seed(0)
    encoder = PillarEncoder(4, RANGE, PILLAR, channels=(16,)).eval()
    points = torch.rand(500, 4) * torch.tensor([1, 1, 3, 1]) + torch.tensor([3, 1, -3, 0])
    canvas = encoder([points])
    assert torch.allclose(canvas, encoder([points.flip(0)]), atol=1e-6)
    assert not torch.allclose(canvas, encoder([points[:20]]), atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize('device', DEVICES)
def test_maps_on_each_device(device):
    encoder = PillarEncoder(4, RANGE, PILLAR, channels=(8, 6)).eval()
    points = [torch.rand(30, 4) * 7, torch.zeros(0, 4), torch.rand(20, 4) * 3]
    wanted = encoder(points)
    canvas = encoder.to(device)([scan.to(device) for scan in points])
    torch.testing.assert_close(canvas.cpu(), wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_autocast_does_not_round_coordinates():
    encoder = PillarEncoder(4, RANGE, PILLAR, channels=(6,)).eval()
    points = torch.rand(50, 4) * 4
    plain = encoder([points])
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(encoder([points]), plain)


@pytest.mark.parametrize(('arguments', 'message'), [
    ((4, RANGE, (1, 1, 2)), '2 pillars on top'), ((2, RANGE, PILLAR), '2 columns'),
    ((4, RANGE, (.3, 1, 4)), '26.6667 x 8 x 1'), ((4, RANGE, (1, 1)), r'\[1, 1\] m')])
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        PillarEncoder(*arguments)


@pytest.mark.parametrize('points', [[], [torch.zeros(3, 3)], [torch.zeros(3, 4), torch.zeros(4)]])
def test_wrong_points_are_named(points):
    with pytest.raises(DataError, match=r'expected \(N, 4\)'):
        PillarEncoder(4, RANGE, PILLAR)(points)
