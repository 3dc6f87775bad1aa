"""FM-Net's mimic loss, the teachers of clips, and the cache of their features."""
import logging

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.structures import BaseDataElement
from torch import nn

from perception.apis.config import load_config
from perception.common.flow import dis_flow
from perception.distill.cache import FeatureCache, FeatureCacheHook, weights_digest
from perception.distill.clips import (
    ClipTeacher,
    DISFlow,
    FrameFeatures,
    PrecomputedFeatures,
    gaussian_blur,
    reduce_maps,
)
from perception.distill.distiller import Distiller
from perception.distill.mimic import MimicLoss, RunningStatistics
from perception.utils.errors import ConfigError, DataError

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]
PATHS = dict(low=dict(tap='early', channels=(4, 2)), high=dict(tap='late', channels=(8, 3)))


class Student(BaseModel):
    """Two 3D convolutions and a loss of their own."""

    def __init__(self):
        super().__init__()
        self.early, self.late = nn.Conv3d(3, 4, 3, (1, 2, 2), 1), nn.Conv3d(4, 8, 3, (1, 2, 2), 1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        found = self.late(self.early(inputs['frames'].transpose(1, 2).float() / 255))
        return dict(loss_own=found.square().mean()) if mode == 'loss' else found


class Net(BaseModel):
    """A net for single images or for pairs, with a normalisation of its own."""

    class Scale(nn.Module):
        def normalise(self, images):
            return images / 100

    def __init__(self, key='images', seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.key, self.data_preprocessor = key, Net.Scale()
        self.low, self.high = nn.Conv2d(3 if key == 'images' else 6, 4, 3, 2, 1), nn.Conv2d(4, 5, 3, 2, 1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.high(self.low(inputs[self.key]))


def teacher(key='images', seed=0, **arguments):
    paths = dict(low=dict(tap='low', channels=2, size=(6, 6)),
                 high=dict(tap='high', channels=((0,), (2, 3), 'max'), size=(5, 4)))
    return ClipTeacher(Net(key, seed), paths, reads=key, **arguments)


@pytest.fixture
def batch():
    frames = torch.randint(256, (2, 4, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    samples = [BaseDataElement(first=torch.tensor([i == 0, False, False, False])) for i in range(2)]
    return dict(inputs=dict(frames=frames), data_samples=samples)


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """The folder that features are kept in."""
    monkeypatch.setattr(FrameFeatures, 'cache_root', tmp_path / 'features')
    return tmp_path / 'features'


# ------------------------------------------------------------------------------------------------------------ teachers

def test_channel_groups_and_chosen_channels():
    maps = torch.arange(6.).view(1, 6, 1, 1).expand(1, 6, 4, 4)
    assert reduce_maps(maps, 3, (2, 2))[0, :, 0, 0].tolist() == [0.5, 2.5, 4.5]
    chosen = reduce_maps(maps - 10 * (maps == 5), ((0,), (1, 5, 2), 'max'), (8, 8))
    assert chosen[0, :, 3, 3].tolist() == [0, 2, 4] and chosen.shape == (1, 3, 8, 8)
    with pytest.raises(ConfigError, match='6 channels in 4 groups'):
        reduce_maps(maps, 4, (2, 2))
    with pytest.raises(ConfigError, match='expected 0..5'):
        reduce_maps(maps, ((6,),), (2, 2))


def test_a_net_sees_each_frame_alone(batch):
    own = teacher(chunk=3)
    found = own.observe(batch)
    assert {name: tuple(maps.shape) for name, maps in found.items()} == dict(low=(2, 2, 4, 6, 6), high=(2, 3, 4, 5, 4))
    with torch.no_grad():
        image = batch['inputs']['frames'][1, 2][None].float() / 100
        low = own.model.low(image)
        expected = reduce_maps(own.model.high(low), ((0,), (2, 3), 'max'), (5, 4))[0]
    assert torch.allclose(found['high'][1, :, 2], expected, atol=1e-5)
    assert not list(own.state_dict()) and not any(p.requires_grad for p in own.model.parameters())
    with pytest.raises(ConfigError, match="view='large'"):
        teacher(view='large').observe(batch)


def test_the_lane_net_of_a_config_is_a_teacher(batch):
    model = load_config('configs/lanes/enet_culane.py', mini=True).model
    lanes = ClipTeacher(model, dict(low=dict(tap='stem', channels=4, size=(8, 10)),
                                    high=dict(tap='classifier', channels=((1, 2, 3, 4), 'max'), size=(7, 9))),
                        size=model.input_size)
    found = lanes.observe(batch)
    assert {name: tuple(maps.shape) for name, maps in found.items()} == dict(low=(2, 4, 4, 8, 10), high=(2, 2, 4, 7, 9))


def test_a_net_sees_each_frame_with_the_one_before(batch):
    own = teacher('pairs')
    found = own.observe(batch)['low']
    with torch.no_grad():
        frames = batch['inputs']['frames'][0].float() / 100
        expected = reduce_maps(own.model.low(torch.cat([frames[1], frames[2]])[None]), 2, (6, 6))[0]
    assert torch.allclose(found[0, :, 2], expected, atol=1e-5) and not found[:, :, 0].any()


def test_flow_without_a_net():
    noise = torch.rand(1, 3, 12, 14, generator=torch.Generator().manual_seed(0))
    large = (nn.functional.interpolate(noise, (48, 56), mode='bicubic').clamp(0, 1) * 255).byte()
    clip = torch.stack([large[0, :, 4:44, 8:48], large[0, :, 4:44, 6:46]])[None]  # moves two pixels to the right
    found = DISFlow(dict(low=(10, 10), high=(4, 4))).observe(dict(inputs=dict(frames=clip)))
    assert found['low'].shape == (1, 16, 2, 10, 10) and found['high'].shape == (1, 32, 2, 4, 4)
    flow = dis_flow(*(frame.permute(1, 2, 0).numpy() for frame in clip[0]))
    inner = found['low'][0, :, 1, 3:7, 3:7].mean((1, 2))
    assert inner[0].item() == pytest.approx(flow[0, 12:28, 12:28].mean(), abs=1e-4) == pytest.approx(2, abs=0.3)
    assert inner[2].item() == pytest.approx(2, abs=0.3) and not found['low'][:, :, 0].any()
    assert inner[[4, 8, 12]].tolist() == pytest.approx([2] * 3, abs=0.4)  # of each blur


def test_blur_keeps_what_is_even_and_the_sum():
    spot = torch.zeros(1, 1, 31, 31)
    spot[..., 15, 15] = 1
    blurred = gaussian_blur(spot, 2)
    assert blurred.sum().item() == pytest.approx(1, abs=1e-5) and blurred[..., 15, 15].item() == pytest.approx(
        1 / (2 * np.pi * 4), rel=0.02)
    assert torch.allclose(gaussian_blur(torch.ones(1, 2, 9, 9), 4), torch.ones(1, 2, 9, 9))
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(gaussian_blur(spot, 2), blurred)


def test_features_in_files(tmp_path, batch):
    for i, sample in enumerate(batch['data_samples']):
        sample.set_metainfo(dict(recording=f'drive{i}', frames=list('abcd')))
        (tmp_path / f'drive{i}').mkdir()
        for k, frame in enumerate('abcd'):
            np.savez(tmp_path / f'drive{i}' / f'{frame}.npz', low=np.full((2, 3, 3), 10 * i + k, np.float16))
    found = PrecomputedFeatures(tmp_path, ['low']).observe(batch)['low']
    assert found.shape == (2, 2, 4, 3, 3) and found[1, 0, :, 0, 0].tolist() == [10, 11, 12, 13]
    with pytest.raises(DataError, match="no array 'high'"):
        PrecomputedFeatures(tmp_path, ['high']).observe(batch)
    batch['data_samples'][1].set_metainfo(dict(mirrored=True))
    with pytest.raises(ConfigError, match='Take FlipClip out'):
        PrecomputedFeatures(tmp_path, ['low']).observe(batch)
    batch['data_samples'][1].set_metainfo(dict(mirrored=False))
    for damaged in (b'PK', b'PK\3\4x'):
        (tmp_path / 'drive1' / 'c.npz').write_bytes(damaged)
        with pytest.raises(DataError, match=r'c\.npz'):
            PrecomputedFeatures(tmp_path, ['low']).observe(batch)


def test_flow_and_features_in_files_teach_in_a_training(tmp_path, batch):
    for i, sample in enumerate(batch['data_samples']):
        sample.set_metainfo(dict(recording=f'drive{i}', frames=list('abcd')))
        (tmp_path / f'drive{i}').mkdir()
        for frame in 'abcd':
            np.savez(tmp_path / f'drive{i}' / f'{frame}.npz', low=np.ones((2, 6, 6)))
    flow = dict(low=dict(tap='early', channels=(4, 16), weight=1.0))
    kept = dict(low=dict(tap='early', channels=(4, 2), weight=1.0))
    model = Distiller(Student(), dict(early='early'), dict(
        flow=MimicLoss('flow', flow, pairs=True), kept=MimicLoss('kept', kept)), dict(
            flow=DISFlow(dict(low=(6, 6))), kept=PrecomputedFeatures(tmp_path, ['low'])))
    assert {'loss_own', 'loss_flow_low', 'loss_kept_low'} == set(model.train()(**batch, mode='loss'))


# ---------------------------------------------------------------------------------------------------------------- loss

def test_a_student_that_says_nothing_scores_one_on_each_path():
    torch.manual_seed(0)
    loss = MimicLoss('seg', dict(low=dict(tap='early', channels=(4, 2), weight=1.0)))
    nn.init.zeros_(loss.adapters['low'].weight)
    nn.init.zeros_(loss.adapters['low'].bias)
    target = 5 + torch.tensor([1., 100]).view(1, 2, 1, 1, 1) * torch.randn(2, 2, 4, 6, 6)
    term = loss(dict(early=torch.randn(2, 4, 4, 8, 8)), dict(low=target), dict(data_samples=None))['low']
    assert term.item() == pytest.approx(1, abs=1e-4)


def test_the_loss_is_the_squared_error_of_adapted_features():
    torch.manual_seed(0)
    loss = MimicLoss('seg', PATHS).eval()
    student = dict(early=torch.randn(2, 4, 3, 8, 8), late=torch.randn(2, 8, 3, 4, 4))
    target = dict(low=torch.randn(2, 2, 3, 6, 6), high=torch.randn(2, 3, 3, 5, 4))
    adapted = nn.functional.interpolate(loss.adapters['high'](student['late'][1, :, 2][None]), (5, 4), mode='bilinear')
    everything = loss(student, target, dict(data_samples=None))
    alone = loss(*({k: v[1:, :, 2:] for k, v in part.items()} for part in (student, target)), dict(data_samples=None))
    assert alone['high'].item() == pytest.approx(0.1 * (adapted - target['high'][1:, :, 2]).square().mean().item())
    assert set(everything) == {'low', 'high'}
    assert set(MimicLoss('seg', PATHS, layers=['high'])(student, target, dict(data_samples=None))) == {'high'}


def test_the_order_of_convolution_and_size_changes_nothing():
    torch.manual_seed(0)
    loss, maps = MimicLoss('seg', PATHS), torch.randn(2, 4, 3, 12, 12)
    rows = maps.transpose(1, 2).flatten(0, 1)
    for size in ((5, 4), (12, 12), (20, 16)):
        expected = nn.functional.interpolate(loss.adapters['low'](rows), size, mode='bilinear')
        assert torch.allclose(loss.adapt('low', maps, size), expected, atol=1e-5)


def test_a_loss_of_no_weight_costs_nothing(batch):
    model = distiller()
    model.losses['flow'].weight, model.teachers['flow'].observe = 0, None  # is not asked
    assert not any('flow' in name for name in model(**batch, mode='loss'))


def test_first_frames_have_no_flow(batch):
    loss = MimicLoss('flow', dict(low=dict(tap='early', channels=(4, 2))), pairs=True).eval()
    batch['data_samples'][1].first = torch.tensor([False, False, True, False])
    ours, target = torch.randn(2, 4, 4, 8, 8), torch.randn(2, 2, 4, 6, 6)
    before = loss(dict(early=ours), dict(low=target), batch)['low'].item()
    for i, k in ((0, 0), (1, 0), (1, 2)):
        target[i, :, k] = 1e6
    assert loss(dict(early=ours), dict(low=target), batch)['low'].item() == before
    target[1, :, 1] = 1e6
    assert loss(dict(early=ours), dict(low=target), batch)['low'].item() > before


def test_statistics_of_all_targets():
    torch.manual_seed(0)
    found, maps = RunningStatistics(3), [1e3 + torch.randn(n, 3, 4, 5) * torch.tensor([1., 5, 0]).view(3, 1, 1)
                                         for n in (2, 7, 3)]
    for part in maps:
        counts = torch.ones(len(part))
        counts[0] = 0
        standard = found(part, counts)
    seen = torch.cat([part[1:] for part in maps]).double()
    assert torch.allclose(found.mean, seen.mean((0, 2, 3)))
    assert torch.allclose((found.square / found.count).sqrt(), seen.std((0, 2, 3), correction=0), atol=1e-6)
    assert standard[:, 2].abs().max() < 1e-3
    before = found.mean.clone()
    found.eval()(maps[0] + 50, torch.ones(2))
    assert torch.equal(found.mean, before)


def test_processes_share_their_statistics(two_processes):
    maps = torch.randn(8, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 3 + 1
    counts = torch.tensor([1., 0, 1, 1, 1, 1, 0, 1])

    def state(rows):
        found = RunningStatistics(3)
        for some in rows.split(2):
            found(maps[some], counts[some])
        return {name: value.numpy() for name, value in found.state_dict().items()}

    first, second = two_processes(lambda rank: state(torch.arange(rank, 8, 2)))
    alone = state(torch.arange(8))
    for name, value in alone.items():
        np.testing.assert_array_equal(first[name], second[name])
        np.testing.assert_allclose(first[name], value, rtol=1e-6)


def test_wrong_paths(batch):
    with pytest.raises(ConfigError, match='middle'):
        MimicLoss('seg', PATHS, layers=['middle'])
    with pytest.raises(ConfigError, match='weight=0'):
        MimicLoss('seg', dict(low=dict(tap='early', channels=(4, 2), weight=0)))
    with pytest.raises(DataError, match=r'\(2, 5, 3, 8, 8\)'):
        MimicLoss('seg', PATHS)(dict(early=torch.zeros(2, 5, 3, 8, 8), late=None), dict(low=torch.zeros(2, 2, 3, 6, 6)),
                                dict(data_samples=None))


def distiller(seed=0, **arguments):
    torch.manual_seed(seed)
    flow = dict(low=PATHS['low'])
    return Distiller(Student(), dict(early='early', late='late'), dict(
        seg=MimicLoss('seg', PATHS), flow=MimicLoss('flow', flow, pairs=True)),
        dict(seg=teacher(**arguments), flow=teacher('pairs', 1, **arguments)))


def test_the_student_keeps_no_trace(batch):
    model = distiller()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), 0.1))
    data, before = dict(batch), {k: v.clone() for k, v in model.state_dict().items()}
    model.data_preprocessor.forward = lambda data, training: data
    losses = model.train_step(data, wrapper)
    assert {'loss_own', 'loss_seg_low', 'loss_seg_high', 'loss_flow_low'} < set(losses)
    changed = {k.split('.')[0] for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed >= {'student', 'losses'}
    bare = Student()
    bare.load_state_dict(model.student.state_dict())  # names and shapes are those of a net that was never taught
    with torch.no_grad():
        assert torch.equal(bare.eval()(batch['inputs']), model.eval()(batch['inputs'], mode='tensor'))


# --------------------------------------------------------------------------------------------------------------- cache

@pytest.mark.parametrize('device', DEVICES)
def test_training_from_the_cache_gives_the_same_losses(batch, cached, device):
    live, kept = distiller().to(device), distiller(cache_gb=1).to(device)
    batch['inputs'] = {name: value.to(device) for name, value in batch['inputs'].items()}
    expected = live(**batch, mode='loss')
    for turn in range(2):
        kept.load_state_dict(live.state_dict())
        live.losses.load_state_dict(kept.losses.state_dict())
        found = kept(**batch, mode='loss')
        for own in kept.teachers.values():
            own.compute = None  # from now on all is read
        for name, value in expected.items():
            assert found[name].item() == pytest.approx(value.item(), rel=2e-3), (turn, name)
        expected = live(**batch, mode='loss')
    files = list(cached.glob('*/*/*.npy'))
    assert len({file.parts[-3] for file in files}) == 2 and len(files) == 8 + 6
    assert np.load(files[0]).dtype == np.float16


def test_what_changes_never_meets_an_old_feature(batch, cached):
    own = teacher(cache_gb=1)
    own.observe(batch)
    others = [teacher(cache_gb=1, seed=1), teacher(cache_gb=1, size=(24, 24)), teacher('pairs', cache_gb=1)]
    others[0].model.data_preprocessor = None
    with torch.no_grad():
        one = teacher(cache_gb=1)
        one.model.low.bias[0] += 1e-6
    other = ClipTeacher(Net(), dict(low=dict(tap='low', channels=4, size=(6, 6))), cache_gb=1)
    dilated = teacher(cache_gb=1)
    dilated.model.low.dilation, dilated.model.low.padding = (2, 2), (2, 2)
    resized = teacher(cache_gb=1)
    resized.model.input_size = (24, 24)  # of a net that brings images to a size of its own
    names = [t.cache().folder.name for t in (own, *others, one, other, dilated, resized)]
    assert len(set(names)) == len(names) and teacher(cache_gb=2).cache().folder.name == names[0]
    changed = dict(inputs=dict(frames=batch['inputs']['frames'].clone()))
    changed['inputs']['frames'][1, 2, 0, 5, 5] ^= 1
    before = {path.name for path in cached.rglob('*.npy')}
    again = teacher(cache_gb=1)
    found = again.observe(changed)
    assert len({path.name for path in cached.rglob('*.npy')} - before) == 1
    assert torch.allclose(found['low'], teacher().observe(changed)['low'], atol=1e-2)


def test_features_are_the_same_whether_they_were_kept_before(batch, cached):
    with torch.autocast('cpu', torch.bfloat16):  # a training in other precision writes nothing else
        first = teacher(cache_gb=1).observe(batch)
    again, full, live = teacher(cache_gb=1).observe(batch), teacher(cache_gb=1e-9).observe(batch), teacher().observe(
        batch)
    for name in live:
        assert torch.equal(first[name], again[name]) and torch.equal(first[name], full[name])
        assert torch.equal(first[name], live[name].half().float())


def test_weights_tell_a_teacher():
    one, two = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    assert weights_digest(one) == weights_digest(two) != weights_digest(nn.BatchNorm2d(4))
    two.num_batches_tracked += 1
    assert weights_digest(one) != weights_digest(two)


def test_files_are_bounded_and_damaged_ones_are_made_anew(tmp_path, caplog):
    cache = FeatureCache(tmp_path, 'net', dict(low=(2, 3, 3)), 2.5 * (2 * 18 + 128) / 1e9)
    for name in ('aa', 'ab', 'ba'):
        cache.write(name, np.arange(18.))
    assert cache.read('aa')[17] == 17 and cache.read('ba') is None and cache.full
    assert FeatureCache(tmp_path, 'net', dict(low=(2, 3, 3)), 1).bytes == 2 * (2 * 18 + 128)
    file = tmp_path / 'net' / 'aa' / 'aa.npy'
    file.write_bytes(file.read_bytes()[:-3])
    assert cache.read('aa') is None
    with pytest.raises(DataError, match='65504'):
        FeatureCache(tmp_path, 'other', dict(low=(18,)), 1).write('aa', np.full(18, 1e6))


def test_gigabytes_are_told_before_anything_is_written(cached):
    class Runner:
        model, logger, told = distiller(cache_gb=1e-3), logging.getLogger('test'), []

        class train_dataloader:  # noqa: N801
            class dataset:  # noqa: N801
                offsets = np.array([0, 500, 1000])
    Runner.logger.info = Runner.told.append
    FeatureCacheHook().before_train(Runner)
    assert '1,000 frames' in Runner.told[0] and not cached.exists()
    Runner.model.teachers['flow'].cache_gb = 1e-5
    with pytest.raises(ConfigError, match='teacher flow'):
        FeatureCacheHook().before_train(Runner)
