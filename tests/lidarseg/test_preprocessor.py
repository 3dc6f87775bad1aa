import pytest
import torch

from perception.common.structures import PointSegSample
from perception.lidarseg.preprocessor import CubeVoxelizer, CylinderVoxelizer
from perception.utils.errors import ConfigError, DataError

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]
GRID = (24, 18, 8)


def scan(n, seed=0):
    points = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed)) * torch.tensor([15., 15., 1., 1.])
    return points, torch.arange(n) % 20 - 1


def batch(sizes, labelled=True):
    points, samples = [], []
    for i, n in enumerate(sizes):
        cloud, labels = scan(n, i)
        labels[labels < 0] = 255
        points.append(cloud)
        sample = PointSegSample(metainfo=dict(sample_id=f'08_{i:06d}', num_points=n))
        if labelled:
            sample.labels = labels
        samples.append(sample)
    return dict(inputs=dict(points=points), data_samples=samples)


@pytest.mark.parametrize('device', DEVICES)
def test_a_batch_is_its_scans_side_by_side(device):
    voxelizer = CylinderVoxelizer(GRID).to(device)
    data = batch([120, 200])
    both = voxelizer(data)['inputs']
    assert both['num_points'] == [120, 200] and both['batch_size'] == 2 and both['grid_shape'] == GRID
    assert both['points'].device.type == both['voxel_labels'].device.type == device
    assert both['point_batch'].tolist() == [0] * 120 + [1] * 200
    start, rows = 0, 0
    for i, n in enumerate([120, 200]):
        alone = voxelizer(dict(inputs=dict(points=data['inputs']['points'][i:i + 1]),
                               data_samples=data['data_samples'][i:i + 1]))['inputs']
        part, own = slice(start, start + n), both['voxel_coords'][:, 0] == i
        assert torch.equal(both['point_feats'][part], alone['point_feats'])
        assert torch.equal(both['voxel_coords'][own][:, 1:], alone['voxel_coords'][:, 1:])
        assert torch.equal(both['point_to_voxel'][part] - rows, alone['point_to_voxel'])
        assert torch.equal(both['voxel_labels'][own], alone['voxel_labels'])
        assert torch.equal(both['labels'][part], alone['labels'])
        start, rows = start + n, rows + len(alone['voxel_coords'])
    assert rows == len(both['voxel_coords'])


def test_every_voxel_holds_a_point_and_rows_are_sorted():
    inputs = CylinderVoxelizer(GRID)(batch([300, 5]))['inputs']
    coords = [tuple(c) for c in inputs['voxel_coords'].tolist()]
    assert coords == sorted(set(coords))
    assert torch.equal(inputs['point_to_voxel'].unique(), torch.arange(len(coords)))
    assert torch.equal(inputs['voxel_coords'][inputs['point_to_voxel']][:, 0], inputs['point_batch'])


def test_labels_of_voxels_are_voted_on_as_asked():
    points = torch.tensor([[5.1, .1, 0, 0]] * 6 + [[9.1, .1, 0, 0]] * 2 + [[13.1, .1, 0, 0]])
    sample = PointSegSample(metainfo=dict(sample_id='a'))
    sample.labels = torch.tensor([3, 255, 7, 255, 255, 7, 255, 255, 4])
    data = dict(inputs=dict(points=[points]), data_samples=[sample])
    found = [voxelizer(data)['inputs']['voxel_labels'].tolist() for voxelizer in (
        CubeVoxelizer(1), CubeVoxelizer(1, voxel_labels='majority'),
        CylinderVoxelizer(GRID), CylinderVoxelizer(GRID, ignored_votes=False))]
    assert found == [[3, 255, 4], [7, 255, 4], [255, 255, 4], [7, 255, 4]]
    with pytest.raises(ConfigError, match='voxel_labels'):
        CubeVoxelizer(1, voxel_labels='last')


def test_without_labels_or_samples():
    voxelizer = CylinderVoxelizer(GRID)
    assert 'labels' not in voxelizer(batch([4], labelled=False))['inputs']
    out = voxelizer(dict(inputs=dict(points=[scan(4)[0]])))
    assert out['data_samples'] is None and 'voxel_labels' not in out['inputs']


def test_scans_with_nothing_in_testing_and_in_training():
    voxelizer = CylinderVoxelizer(GRID)
    inputs = voxelizer(batch([0, 1, 50]))['inputs']
    assert inputs['num_points'] == [0, 1, 50] and set(inputs['point_batch'].tolist()) == {1, 2}
    assert voxelizer(batch([0]))['inputs']['voxel_coords'].shape == (0, 4)
    for sizes in ([50, 0], [50, 1]):
        with pytest.raises(DataError, match=f'scan 08_000001: {sizes[1]} points in a training scan'):
            voxelizer(batch(sizes), training=True)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_coordinates_that_are_no_numbers_are_refused(value):
    data = batch([10, 10])
    data['inputs']['points'][1][7, 2] = value
    with pytest.raises(DataError, match='scan 08_000001: NaN or infinite value in row 7'):
        CylinderVoxelizer(GRID)(data)


@pytest.mark.parametrize('column, value', [(0, 3e38), (2, -20_000.), (3, 1e9)])
@pytest.mark.parametrize('voxelizer', [CylinderVoxelizer(GRID), CubeVoxelizer(.05)])
def test_points_that_no_sensor_sees_are_refused(voxelizer, column, value):
    """They would leave the numbers of cubes, and drown all other features."""
    data = batch([10, 10])
    data['inputs']['points'][1][7, column] = value
    with pytest.raises(DataError, match=r'scan 08_000001: points up to .* expected at most 10,000 m and 1,000,000'):
        voxelizer(data)


def test_cubes_too_small_for_the_scan_are_refused():
    with pytest.raises(DataError, match=r'cube_index: a grid of .* Take voxels larger than 1e-06 m'):
        CubeVoxelizer(1e-6)(batch([10]))


def test_other_bad_input():
    voxelizer = CylinderVoxelizer(GRID)
    with pytest.raises(DataError, match=r'points of shape \(9, 3\)'):
        voxelizer(dict(inputs=dict(points=[torch.zeros(9, 3)])))
    data = batch([10])
    data['data_samples'][0].labels = torch.zeros(9, dtype=torch.long)
    with pytest.raises(DataError, match='9 labels for 10 points'):
        voxelizer(data)
    with pytest.raises(ConfigError, match='minimum below'):
        CylinderVoxelizer(GRID, min_bound=(50, -3, -4))
