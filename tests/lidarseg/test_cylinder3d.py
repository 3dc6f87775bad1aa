"""Against outputs of the authors' code (goldens, float64) and against slow versions written here."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from perception.common.structures import PointSegSample
from perception.lidarseg.convert.cylinder3d import MODULES, convert_cylinder3d
from perception.lidarseg.models.cylinder3d import Cylinder3D, PointRefinement
from perception.lidarseg.preprocessor import CylinderVoxelizer
from perception.ops.sparse.functional import count_macs
from perception.ops.sparse.tensor import SparseTensor
from perception.utils.errors import ConfigError, DataError

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]
VARIANTS = [('sp1', 'legacy'), ('pk', 'correct')]
BLOCKS = {'downCntx': 'stem', 'ReconNet': 'context', **{f'upBlock{k}': f'up{4 - k}' for k in range(4)}}
GRID = (32, 24, 8)
TOLERANCE = dict(rtol=1e-6, atol=1e-6)


# --- goldens -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope='module')
def golden(shared):
    with np.load(shared / 'goldens/lidarseg/cylinder3d_A.npz') as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope='module')
def our_batch(golden):
    """Our voxels of the golden's points."""
    samples = [PointSegSample(labels=torch.from_numpy(golden[f'labels{b}'].astype(np.int64)) - 1) for b in (0, 1)]
    for sample in samples:
        sample.labels[sample.labels < 0] = 255
    points = [torch.from_numpy(golden[f'points{b}']) for b in (0, 1)]
    return CylinderVoxelizer((96, 72, 16))(dict(inputs=dict(points=points), data_samples=samples))['inputs']


@pytest.fixture(scope='module')
def golden_batch(golden, our_batch):
    """The authors' own features and cells: a training step amplifies the last digit of an azimuth a thousandfold."""
    grid, coords = (torch.from_numpy(array.astype(np.int64)) for array in (
        np.concatenate([golden['grid0'], golden['grid1']]), golden['vox_coords']))
    rows = {coord: row for row, coord in enumerate(map(tuple, coords.tolist()))}
    cells = torch.cat([our_batch['point_batch'][:, None], grid], dim=1)
    labels = torch.from_numpy(golden['vox_label'].astype(np.int64)) - 1
    return dict(our_batch, point_feats=torch.from_numpy(np.concatenate([golden['fea0'], golden['fea1']])),
                voxel_coords=coords, voxel_labels=torch.where(labels < 0, 255, labels),
                point_to_voxel=torch.tensor([rows[cell] for cell in map(tuple, cells.tolist())]))


def golden_net(golden, sharing):
    weights = {name[3:]: torch.from_numpy(value).float() if value.dtype == np.float16 else torch.from_numpy(value)
               for name, value in golden.items() if name.startswith('sd/')}
    weights, arguments = convert_cylinder3d(weights, sharing)
    net = Cylinder3D(**arguments)
    net.load_state_dict(weights)
    return net.double()


def their_order(logits):
    """(..., C+1) with "unlabelled" first, as the authors have it."""
    return torch.cat([logits[..., -1:], logits[..., :-1]], dim=-1)


def close(ours, theirs, **tolerance):
    theirs = torch.from_numpy(np.asarray(theirs)).double()
    torch.testing.assert_close(ours.detach().double(), theirs, **(tolerance or TOLERANCE))


def test_voxels_features_and_labels_equal_the_authors(our_batch, golden_batch):
    """But for a few points on a border of two cells, whose azimuth NumPy rounds differently from CPU to CPU."""
    ours, theirs = (batch['voxel_coords'][batch['point_to_voxel']] for batch in (our_batch, golden_batch))
    same_cell = (ours == theirs).all(1)
    moved = int((~same_cell).sum())
    assert moved <= 3
    torch.testing.assert_close(our_batch['point_feats'][same_cell], golden_batch['point_feats'][same_cell], rtol=0,
                               atol=1e-6)
    ours, theirs = ({(*coord, label) for coord, label in zip(batch['voxel_coords'].tolist(),
                                                             batch['voxel_labels'].tolist(), strict=True)}
                    for batch in (our_batch, golden_batch))
    assert len(ours ^ theirs) <= 4 * moved  # a moved point changes two voxels, each in both sets


@pytest.mark.parametrize(('variant', 'sharing'), VARIANTS)
def test_evaluation_equals_the_authors(golden, golden_batch, variant, sharing):
    net = golden_net(golden, sharing).eval()
    outputs = {}

    def record(name):
        return lambda module, inputs, output: outputs.update({name: output})

    for name in ('encoder', *(f'backbone.{block}' for block in BLOCKS.values()),
                 *(f'backbone.stage{n}' for n in (1, 2, 3, 4))):
        net.get_submodule(name).register_forward_hook(record(name))
    with torch.no_grad():
        out = net(golden_batch)
    close(outputs['encoder'][0], golden['vox_features'])
    logits = their_order(out['voxel_logits'])
    step = 1 if variant == 'sp1' else 2
    close(logits[::step], golden[f'{variant}/eval_logits'])
    for b, rows in enumerate(their_order(out['point_logits']).argmax(1).split(golden_batch['num_points'])):
        assert np.array_equal(rows.numpy(), golden[f'{variant}/eval_point_pred{b}'])
    blocks = {block: outputs[f'backbone.{name}'] for block, name in BLOCKS.items()}
    for n in (2, 3, 4, 5):
        blocks[f'resBlock{n}/down'], blocks[f'resBlock{n}/skip'] = outputs[f'backbone.stage{n - 1}']
    for block, x in blocks.items():
        order = np.lexsort(x.voxel_coords.numpy().T[::-1])
        assert len(order) == golden[f'block_count/{block}']
        assert np.array_equal(x.voxel_coords.numpy()[order][::16], golden[f'block_coords/{block}'])
        close(x.feats[torch.from_numpy(order)][::16], golden[f'{variant}/block/{block}'])


@pytest.mark.parametrize(('variant', 'sharing'), VARIANTS)
def test_one_training_step_equals_the_authors(golden, golden_batch, variant, sharing):
    net = golden_net(golden, sharing).train()
    seen = []
    net.head.register_forward_hook(lambda module, inputs, output: seen.append(output.feats))
    losses = net(golden_batch, mode='loss')
    assert set(losses) == {'loss_voxel_ce', 'loss_voxel_lovasz'}
    close(their_order(seen[0])[::4], golden[f'{variant}/train_logits'])
    close(losses['loss_voxel_ce'], golden[f'{variant}/train_loss_ce'])
    close(losses['loss_voxel_lovasz'], golden[f'{variant}/train_loss_lovasz'])
    sum(losses.values()).backward()
    checked = 0
    for name, parameter in net.named_parameters():
        module, leaf = name.rsplit('.', 1)
        old = f'{MODULES[module][0]}.{leaf}'
        close(parameter.grad.norm(), golden[f'{variant}/grad_norm/{old}'], rtol=1e-5, atol=1e-7)
        theirs = golden.get(f'{variant}/grad/{old}')
        if theirs is not None:
            gradient = their_order(parameter.grad.movedim(0, -1)) if module == 'head' else parameter.grad.movedim(0, -1)
            if gradient.dim() == 5:
                gradient, theirs = gradient.flatten(0, 2), theirs.reshape(-1, *theirs.shape[3:])
                assert not theirs[len(gradient):].any()  # slices that 'legacy' does not have
                theirs = theirs[:len(gradient)]
            elif gradient.dim() == 2:
                theirs = theirs.T
            close(gradient, theirs, rtol=1e-5, atol=1e-5 * float(np.abs(theirs).max()))
            checked += 1
    assert checked == 10
    after = {name: value for name, value in golden.items() if name.startswith(f'{variant}/train_bn_after/')}
    buffers = {f'{MODULES[name.rsplit(".", 1)[0]][0]}.{name.rsplit(".", 1)[1]}': value
               for name, value in net.named_buffers() if 'running' in name}
    assert len(after) == len(buffers)
    for name, value in after.items():
        close(buffers[name.split('/', 2)[2]], value)


# --- sizes ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(('width', 'count'), [(32, 55_866_694), (16, 14_071_542)])
def test_parameters_as_published(width, count):
    with torch.device('meta'):
        net = Cylinder3D(base_channels=width, compression=width)
    assert sum(p.numel() for p in net.parameters()) == count


def test_macs_on_the_real_scan(shared):
    """295.0 and 73.9 G at full and half width; counted in a net of width 2, whose kernel maps are the same."""
    scan = shared / 'real/semantickitti/sequences/08/velodyne/000700.bin'
    points = torch.from_numpy(np.fromfile(scan, np.float32).reshape(-1, 4))
    batch = CylinderVoxelizer()(dict(inputs=dict(points=[points])))['inputs']
    assert len(batch['voxel_coords']) == pytest.approx(41_609, abs=5)  # points on a border of two cells
    net = Cylinder3D(base_channels=2, compression=2, point_widths=(4, 4, 4), point_channels=4).eval()
    with torch.no_grad(), count_macs() as counter:
        net(batch)
    macs = dict.fromkeys((16, 32), 0)
    for width in macs:
        for pairs, inputs, outputs in counter.layers:
            macs[width] += pairs * inputs * width // 2 * (20 if outputs == 20 else outputs * width // 2)
    assert macs[32] / 1e9 == pytest.approx(295.0, abs=0.05)
    assert macs[16] / 1e9 == pytest.approx(73.9, abs=0.05)


# --- behaviour -----------------------------------------------------------------------------------------------------
def small_net(**kwargs):
    torch.manual_seed(0)
    kwargs = dict(base_channels=2, compression=4, point_channels=8, point_widths=(4, 8, 16), refine='mirror') | kwargs
    return Cylinder3D(dict(type=CylinderVoxelizer, grid_shape=GRID), **kwargs)


def small_batch(sizes=(150, 100), seed=0):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([15., 15., 1., 1.])
    points = [torch.randn(n, 4, generator=generator) * scale for n in sizes]
    samples = [PointSegSample(labels=(cloud[:, 0] > 0).long() + 3 * (cloud[:, 2] > 0)) for cloud in points]
    for sample in samples:
        sample.labels[::7] = 255
    return dict(inputs=dict(points=points), data_samples=samples)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('refine', ['mirror', None])
def test_learns(device, refine):
    net = small_net(refine=refine).to(device)
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-2)
    history = []
    for _ in range(20):
        data = net.data_preprocessor(small_batch(), True)
        losses = net(**data, mode='loss')
        assert all(name.startswith('loss_') and value.dim() == 0 for name, value in losses.items())
        assert ('loss_point_ce' in losses) == (refine == 'mirror')
        optimiser.zero_grad()
        sum(losses.values()).backward()
        assert all(p.grad is not None for p in net.parameters())
        optimiser.step()
        history.append(sum(losses.values()).item())
    assert history[-1] < 0.5 * history[0]


def test_refinement_equals_the_description():
    torch.manual_seed(0)
    refine = PointRefinement(6, (4, 8, 16)).double().train()
    voxels, rows = torch.randn(5, 6, dtype=torch.float64), torch.randint(0, 5, (40,))
    hidden = [torch.randn(40, width, dtype=torch.float64) for width in (4, 8, 16)]
    x = voxels[rows]
    for linear, skip in zip(refine.linears, hidden[::-1]):
        x = x @ linear.weight.T + linear.bias
        x = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()
        x = x.clamp(min=0) + skip
    torch.testing.assert_close(refine(voxels, rows, hidden), x)


@pytest.mark.parametrize('mode', ['loss', 'predict', 'tensor'])
@pytest.mark.parametrize('refine', ['mirror', None])
def test_taps_run_once_with_the_promised_outputs(mode, refine):
    net, seen = small_net(refine=refine), {}
    for name in ('backbone', 'head', 'point_feats', 'point_logits'):
        net.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: seen.setdefault(name, []).append(output))
    data = net.data_preprocessor(small_batch())
    net(**data, mode=mode)
    assert {name: len(outputs) for name, outputs in seen.items()} == dict.fromkeys(seen, 1) and len(seen) == 4
    voxels, points = len(data['inputs']['voxel_coords']), 250
    for name, channels in (('backbone', 8), ('head', 20)):
        assert isinstance(seen[name][0], SparseTensor) and seen[name][0].feats.shape == (voxels, channels)
        assert torch.equal(seen[name][0].voxel_coords, data['inputs']['voxel_coords'])
    assert seen['point_feats'][0].shape == (points, 4 if refine else 8)
    assert seen['point_logits'][0].shape == (points, 20)
    if refine is None:
        rows = data['inputs']['point_to_voxel']
        assert torch.equal(seen['point_logits'][0], seen['head'][0].feats[rows])
        assert torch.equal(seen['point_feats'][0], seen['backbone'][0].feats[rows])


@pytest.mark.parametrize('sizes', [(0,), (1,), (0, 0), (60, 0, 1), (0, 40)])
@pytest.mark.parametrize('refine', ['mirror', None])
def test_predicts_scans_with_almost_nothing(sizes, refine):
    net = small_net(refine=refine).eval()
    with torch.no_grad():
        samples = net.test_step(small_batch(sizes))
    assert [len(sample.pred_labels) for sample in samples] == list(sizes)
    assert all(sample.pred_labels.dtype == torch.int64 for sample in samples)


@pytest.mark.parametrize('refine', ['mirror', None])
def test_predictions_are_those_of_each_scan_alone_and_never_the_dead_class(refine):
    net = small_net(refine=refine, keep_logits=True).eval()
    with torch.no_grad():
        (net.point_head if refine else net.head).bias[19] = 100.
        data = small_batch()
        together = net.test_step(data)
        for i, sample in enumerate(together):
            assert sample.logits.shape == (len(data['inputs']['points'][i]), 19)
            assert torch.equal(sample.pred_labels, sample.logits.argmax(1)) and sample.pred_labels.max() < 19
            alone = net.test_step(dict(inputs=dict(points=data['inputs']['points'][i:i + 1]), data_samples=None))[0]
            torch.testing.assert_close(alone.logits, sample.logits)


def test_losses_equal_their_definition():
    weights = torch.linspace(.5, 2, 19).tolist()
    net = small_net(class_weights=weights, ce_weight=2., lovasz_weight=0., point_weight=3.)
    inputs = net.data_preprocessor(small_batch())['inputs']
    voxel_logits = torch.randn(len(inputs['voxel_coords']), 20)
    point_logits = torch.randn(len(inputs['points']), 20)
    losses = net.loss(voxel_logits, point_logits, inputs)

    def weighted(logits, labels):
        total = norm = 0.
        for row, label in zip(logits, labels.tolist()):
            if label != 255:
                total += weights[label] * (row.exp().sum().log() - row[label])
                norm += weights[label]
        return total / norm

    torch.testing.assert_close(losses['loss_voxel_ce'], 2 * weighted(voxel_logits, inputs['voxel_labels']))
    torch.testing.assert_close(losses['loss_point_ce'], 3 * weighted(point_logits, inputs['labels']))
    assert losses['loss_voxel_lovasz'] == 0


def test_a_batch_without_any_class_has_loss_zero():
    net, data = small_net(), small_batch()
    for sample in data['data_samples']:
        sample.labels[:] = 255
    losses = net(**net.data_preprocessor(data, True), mode='loss')
    sum(losses.values()).backward()
    assert all(value == 0 for value in losses.values())
    assert all(p.grad is None or not p.grad.any() for p in net.parameters())


def test_logits_are_never_dense():
    net = small_net().eval()
    net.data_preprocessor = CylinderVoxelizer((40_000, 40_000, 400))  # dense logits would fill 50 TB
    with torch.no_grad():
        out = net(net.data_preprocessor(small_batch())['inputs'])
    assert out['voxel_logits'].shape[1] == 20 and F.softmax(out['voxel_logits'], 1).isfinite().all()


@pytest.mark.parametrize(('kwargs', 'says'), [
    (dict(indice_sharing='legaci'), "indice_sharing='legaci'.*Did you mean legacy"),
    (dict(refine='mirrors'), "refine='mirrors'"), (dict(class_weights=[1., 2.]), '2 class_weights for 19 classes')])
def test_bad_arguments_are_refused(kwargs, says):
    with pytest.raises(ConfigError, match=says):
        small_net(**kwargs)


def test_bad_calls_are_refused():
    net, data = small_net(), small_batch()
    inputs = net.data_preprocessor(dict(inputs=data['inputs'], data_samples=None))['inputs']
    with pytest.raises(DataError, match='batch without labels'):
        net(inputs, mode='loss')
    with pytest.raises(ConfigError, match="mode='train'"):
        net(inputs, mode='train')


@pytest.mark.parametrize('device', DEVICES)
def test_mixed_precision_stays_near_float32(device):
    net = small_net().to(device).eval()
    data = net.data_preprocessor(small_batch())
    with torch.no_grad():
        exact = net(**data, mode='loss')
    with torch.autocast(device, torch.bfloat16):
        losses = net(**data, mode='loss')
    sum(losses.values()).backward()
    for name, value in losses.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name], rtol=0.03, atol=0.03)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 and p.grad.isfinite().all()
               for p in net.parameters())
