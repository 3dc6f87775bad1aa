import json

import numpy as np
import pytest
import torch

from perception.common.structures import PointSegSample
from perception.lidarseg.convert.minkunet import convert_minkunet
from perception.lidarseg.models.minkunet import MinkUNet, scaled_architecture
from perception.lidarseg.models.spvcnn import SPVCNN
from perception.lidarseg.models.spvnas import NETS, SPVNAS, read_net_config
from perception.lidarseg.preprocessor import CubeVoxelizer
from perception.ops.voxelize import cube_index, first_points, unique_voxels
from perception.utils.errors import CheckpointError, ConfigError, DataError

NETWORKS = {'minkunet_A': MinkUNet, 'spvcnn_A': SPVCNN}


@pytest.fixture(scope='module', params=NETWORKS)
def golden(request, shared):
    """A net with the published layout's weights, its input and the stored outputs."""
    with np.load(shared / f'goldens/lidarseg/{request.param}.npz') as file:
        arrays = {name: torch.from_numpy(file[name].astype(np.float64) if file[name].dtype == np.float16
                                         else file[name]) for name in file.files}
    model = NETWORKS[request.param](width=0.125).double()
    weights = {name[3:]: value for name, value in arrays.items() if name.startswith('sd/')}
    if request.param == 'minkunet_A':  # as the published files, which hold them unused
        weights['point_transforms.0.0.weight'] = torch.zeros(32, 4)
        assert convert_minkunet(weights, net='minkunet')[1].startswith('configs/lidarseg/minkunet_kitti.py')
        del weights['point_transforms.0.0.weight']
    converted, usage = convert_minkunet(dict(state_dict={f'module.{k}': v for k, v in weights.items()}))
    assert usage == f'configs/lidarseg/{request.param[:-2]}_kitti.py --cfg-options model.width=0.125'
    model.load_state_dict(converted)
    if isinstance(model, SPVCNN):
        model.backbone.dropout = 0.
    coords = arrays['coords_xyzb'].long()[:, [3, 0, 1, 2]]
    grid = tuple(16 * (int(n) // 16 + 1) for n in coords[:, 1:].amax(0))
    counts = torch.bincount(coords[:, 0]).tolist()
    inputs = dict(voxel_feats=arrays['feats'].double(), voxel_coords=coords, grid_shape=grid, batch_size=2,
                  point_to_voxel=torch.arange(len(coords)), num_points=counts)
    return model, inputs, arrays


@pytest.mark.parametrize('mode', ['eval', 'train'])
def test_logits_are_those_of_the_authors_code(golden, mode):
    model, inputs, arrays = golden
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        logits = model.train(mode == 'train')(inputs)['voxel_logits']
    atol = 3e-4 if isinstance(model, SPVCNN) else 1e-5  # the authors' trilinear weights are off by 1e-5 by themselves
    torch.testing.assert_close(logits[::4], arrays[f'{mode}_logits'].double(), rtol=0, atol=atol)
    if mode == 'train':
        names = {name: value for name, value in arrays.items() if name.startswith('train_bn_after/')}
        now = model.state_dict()
        whole = {name[3:]: value for name, value in arrays.items() if name.startswith('sd/')}
        whole.update({name[len('train_bn_after/'):]: value for name, value in names.items()})
        after, _ = convert_minkunet(whole)
        running = [name for name in after if 'running' in name]
        assert len(running) == len(names)
        for name in running:
            torch.testing.assert_close(now[name], after[name].double(), rtol=1e-4, atol=1e-4)
    model.load_state_dict(state)


def test_voxels_are_those_of_the_authors_quantisation(shared):
    with np.load(shared / 'goldens/lidarseg/minkunet_A.npz') as file:
        for scan in range(2):
            points = torch.from_numpy(file[f'raw_points{scan}'])
            batch = torch.zeros(len(points), dtype=torch.int64)
            index, grid = cube_index(points, batch, 1, 0.15)
            np.testing.assert_array_equal(index, file[f'raw_voxel{scan}'])
            coords, rows = unique_voxels(index, batch, grid)
            np.testing.assert_array_equal(rows, file[f'raw_inverse{scan}'])
            np.testing.assert_array_equal(first_points(rows, len(coords)), file[f'raw_inds{scan}'])


@pytest.mark.parametrize('build,expected', [
    (lambda: MinkUNet(width=1.0), 21_723_315), (lambda: MinkUNet(width=0.64), 8_771_298),
    (lambda: MinkUNet(width=0.5), 5_435_235), (lambda: SPVCNN(width=1.0), 21_778_003), (SPVNAS, 10_788_891),
    (lambda: SPVCNN(width=0.64), 8_793_617), (lambda: SPVCNN(width=0.5), 5_449_267)])
def test_parameter_counts(build, expected):
    """5.44, 8.77 and 21.72 million, for SPVCNN 14.0, 22.3 and 54.7 thousand more, 10.79 for SPVNAS, as published."""
    with torch.device('meta'):
        assert sum(p.numel() for p in build().parameters()) == expected


@pytest.mark.parametrize('width, expected', [(0.5, (16, 16, 32, 64, 128, 128, 64, 48, 48)),
                                             (0.64, (20, 20, 40, 81, 163, 163, 81, 61, 61)),
                                             (1.0, (32, 32, 64, 128, 256, 256, 128, 96, 96))])
def test_published_widths_are_rounded_down(width, expected):
    net = scaled_architecture(width)
    assert (net.stem[0], *(level.blocks[-1][1] for level in (*net.down, *net.up))) == expected
    assert [level.transition for level in (*net.down, *net.up)] == [*expected[:4], *expected[5:]]
    assert {len(level.blocks) for level in (*net.down, *net.up)} == {2}


def net_config():
    """The released file's form for the searched net."""
    net = NETS['65GMACs']
    outs = [level.blocks[-1][1] for level in (*net.down, *net.up)]
    values = dict(output_channels=[net.stem[1], *outs], num_classes=19, pres=0.05, vres=0.05)
    for side, levels in (('downsample', net.down), ('upsample', net.up)):
        for number, level in enumerate(levels):
            values[f'{side}.{number}.transition'] = level.transition
            values[f'{side}.{number}.feature'] = len(level.blocks)
            for j in range(2):  # unused second blocks are in the file too
                hidden = level.blocks[min(j, len(level.blocks) - 1)][0]
                values[f'{side}.{number}.feature.layers.{j}.net.layers.0'] = hidden
    return values


def test_spvnas_is_built_from_a_net_config(tmp_path):
    path = tmp_path / 'net.config'
    path.write_text(json.dumps(net_config()))
    assert read_net_config(path) == NETS['65GMACs']
    values = net_config()
    del values['upsample.2.transition']
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match='upsample.2.transition'):
        SPVNAS(net=str(path))
    path.write_text('{"output_channels": [')
    with pytest.raises(ConfigError, match='cannot be read'):
        SPVNAS(net=str(path))
    with pytest.raises(ConfigError, match="Did you mean 65GMACs"):
        SPVNAS(net='65GMAC')


def batch(sizes, labelled=True):
    generator = torch.Generator().manual_seed(0)
    scans = [torch.randn(n, 4, generator=generator) * 3 for n in sizes]
    samples = []
    for n in sizes:
        sample = PointSegSample(metainfo=dict(sample_id='08_000000', num_points=n))
        if labelled:
            sample.labels = torch.randint(0, 19, (n,), generator=generator)
        samples.append(sample)
    return dict(inputs=dict(points=scans), data_samples=samples)


@pytest.mark.parametrize('net', [MinkUNet(width=0.125), SPVCNN(width=0.125, voxel_head=True), SPVNAS(ratio=0.125)],
                         ids=['minkunet', 'spvcnn', 'spvnas'])
def test_a_net_trains_and_predicts_every_point(net):
    voxelizer = CubeVoxelizer(0.3)
    data = voxelizer(batch([300, 200]), training=True)
    losses = net.train()(**data, mode='loss')
    assert set(losses) == {'loss_voxel_ce'} | ({'loss_branch_ce'} if net.voxel_head is not None else set())
    sum(losses.values()).backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in net.parameters())
    samples = net.eval()(**voxelizer(batch([300, 1, 0, 200], labelled=False)), mode='predict')
    assert [len(sample.pred_labels) for sample in samples] == [300, 1, 0, 200]
    with pytest.raises(DataError, match='a batch without labels'):
        net(**voxelizer(batch([300], labelled=False)), mode='loss')
    with pytest.raises(ConfigError, match='mode='):
        net(**data, mode='los')


def test_training_keeps_some_voxels_of_each_scan_and_their_points():
    voxelizer = CubeVoxelizer(0.5, max_voxels=40, cylinder_grid=(48, 36, 8))
    data = batch([400, 30])
    whole, cut = voxelizer(data)['inputs'], voxelizer(data, training=True)['inputs']
    small = int((whole['voxel_coords'][:, 0] == 1).sum())
    assert torch.bincount(cut['voxel_coords'][:, 0]).tolist() == [40, min(40, small)]
    assert sum(cut['num_points']) == len(cut['points']) == len(cut['labels']) == len(cut['point_to_voxel'])
    assert cut['supervoxel_coords'].shape == cut['voxel_coords'].shape
    assert bool((cut['supervoxel_coords'][:, 1:] < torch.tensor([48, 36, 8])).all())
    rows = {tuple(row): i for i, row in enumerate(whole['voxel_coords'].tolist())}
    for row, feats, label in zip(cut['voxel_coords'].tolist(), cut['voxel_feats'], cut['voxel_labels']):
        assert torch.equal(feats, whole['voxel_feats'][rows[tuple(row)]])
        assert label == whole['voxel_labels'][rows[tuple(row)]]
    cells = torch.round(cut['points'][:, :3] / 0.5)
    own = cut['voxel_feats'][cut['point_to_voxel']]
    assert torch.equal(cells, torch.round(own[:, :3] / 0.5))


def test_cut_weights_are_named(shared):
    with np.load(shared / 'goldens/lidarseg/minkunet_A.npz') as file:
        weights = {name[3:]: torch.from_numpy(file[name]) for name in file.files if name.startswith('sd/')}
    del weights['stage2.1.net.3.kernel']
    weights['stem.0.kernel'] = weights['stem.0.kernel'][..., :3]
    with pytest.raises(CheckpointError, match=r'1 missing \(stage2.*1 mis-shaped \(stem.*of MinkUNet of width 0.125'):
        convert_minkunet(weights)


def test_bad_arguments_and_foreign_weights():
    with pytest.raises(ConfigError, match='voxel_size'):
        CubeVoxelizer(0)
    with pytest.raises(ConfigError, match='width'):
        MinkUNet(width=0.01)
    for blocks in ((2,) * 7, (2, 2, 0, 2, 2, 2, 2, 2)):
        with pytest.raises(ConfigError, match='blocks=.*eight positive numbers'):
            MinkUNet(blocks=blocks)
    with pytest.raises(ConfigError, match='class_weights'):
        MinkUNet(class_weights=[1.0])
    with pytest.raises(ConfigError, match='ratio'):
        SPVNAS(ratio=0)
    for other in (dict(width=0.5), dict(blocks=(1,) * 8)):
        with pytest.raises(ConfigError, match='SPVNAS: .*expected net and ratio'):
            SPVNAS(**other)
    with pytest.raises(CheckpointError, match='expected MinkUNet or SPVCNN of mit-han-lab'):
        convert_minkunet(MinkUNet(width=0.125).state_dict())
    with pytest.raises(CheckpointError, match='expected MinkUNet or SPVCNN of mit-han-lab'):
        convert_minkunet({'backbone.layer1.weight': torch.zeros(3)})
