"""The whole net: losses, unrolls, states, streaming, targets, export."""
import numpy as np
import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from perception.apis.export import compare, to_onnx
from perception.common.measure import count_model_macs
from perception.steering.models import fm_net
from perception.steering.models.cnn3d import CNN3d
from perception.steering.models.fm_net import ActionNet, ClipPreprocessor, SteeringNet
from perception.steering.models.heads import AutoregressiveLSTM, FrameHead, FramePredictor
from perception.steering.models.targets import statistics
from perception.utils.errors import ConfigError, DataError

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]


def cnn(**arguments) -> SteeringNet:
    """The challenge winner's net for 48 x 48 pixels."""
    trunk = dict(type=CNN3d, channels=4, kernels=(6, 3, 3, 3), strides=(3, 2, 1, 1), drop=0.0)
    torch.manual_seed(0)
    head = dict(type=FrameHead, widths=(16,), features=8, drop=0.0, levels=True)
    return SteeringNet(trunk, head, dict(type=AutoregressiveLSTM, hidden=8), input_size=(48, 48), **arguments)


# --------------------------------------------------------------------------------------------------------------- losses

@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('kind', [SteeringNet, ActionNet])
def test_two_steps_of_training(tiny_net, random_batch, kind, device):
    net = tiny_net(kind=kind).to(device)
    before = [p.clone() for p in net.parameters()]
    wrapper = OptimWrapper(torch.optim.Adam(net.parameters(), 1e-3))
    losses = [net.train_step(random_batch(), wrapper) for _ in range(2)]
    assert losses[1]['loss'] != losses[0]['loss'] and all(torch.isfinite(x) for x in losses[1].values())
    assert not any(torch.equal(old, new) for old, new in zip(before, net.parameters()))


def test_base_loss_is_the_published_one(tiny_net, random_batch):
    net = tiny_net(target_mean=[1, 2, 3], target_std=[4, 5, 6], aux_weight=0.5).eval()
    data = net.data_preprocessor(random_batch())
    truth = torch.stack([sample.targets for sample in data['data_samples']])
    z = (truth - torch.tensor([1., 2, 3])) / torch.tensor([4., 5, 6])
    features = net.encode(data['inputs']['clip'])
    own, given = net.predictor(features)[0], net.predictor(features, given=z)[0]
    expected = (own - z)[..., 0].square().mean() + 0.5 * ((own - z).square().mean() + (given - z).square().mean())
    losses = net(**data, mode='loss')
    assert sum(losses.values()).item() == pytest.approx(expected.item(), rel=1e-5)
    assert set(losses) == {'loss_angle', 'loss_own', 'loss_given'}


def test_unknown_targets_count_in_nothing(tiny_net, random_batch):
    net, batch = tiny_net(), random_batch()
    for sample in batch['data_samples']:
        sample.targets[:, 1:] = torch.nan
    data = net.data_preprocessor(batch)
    losses = net(**data, mode='loss')
    assert losses['loss_own'].item() == pytest.approx(losses['loss_angle'].item())
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())
    for sample in batch['data_samples']:
        sample.targets[:] = torch.nan
    assert sum(net(**data, mode='loss').values()).item() == 0


def test_unknown_actions_count_in_nothing(tiny_net, random_batch):
    net, batch = tiny_net(kind=ActionNet).eval(), random_batch(1)
    batch['data_samples'][0].actions[2:] = 255
    data = net.data_preprocessor(batch)
    scores = net(**data)['outputs'][0, :2]
    expected = nn.functional.cross_entropy(scores, batch['data_samples'][0].actions[:2])
    assert net(**data, mode='loss')['loss_action'].item() == pytest.approx(expected.item())
    batch['data_samples'][0].actions[0] = 7
    with pytest.raises(DataError, match='up to 7'):
        net(**data, mode='loss')


def test_training_needs_targets(tiny_net, random_batch):
    net, batch = tiny_net(), random_batch()
    del batch['data_samples'][1].targets
    with pytest.raises(DataError, match='without targets'):
        net(**net.data_preprocessor(batch), mode='loss')


def test_overfits_a_few_clips(tiny_net, random_batch):
    net, batch = tiny_net(target_mean=[0, 0, 0], target_std=[20, 1, 5]), random_batch(4, 4)
    wrapper = OptimWrapper(torch.optim.Adam(net.parameters(), 5e-3))
    losses = [net.train_step(batch, wrapper)['loss_angle'].item() for _ in range(40)]
    assert losses[-1] < 0.3 * losses[0]


# ------------------------------------------------------------------------------------------------- predictor and states

def test_what_it_says_is_not_rounded_to_bfloat16():
    torch.manual_seed(0)
    features, given = torch.randn(2, 9, 16).bfloat16(), torch.randn(2, 9, 3)
    for predictor in (AutoregressiveLSTM(16), FramePredictor(16)):
        expected = predictor(features.float(), given=given)
        with torch.autocast('cpu', torch.bfloat16):
            found = predictor(features, given=given)
        assert all(map(torch.equal, found, expected)) and found[0].dtype == torch.float32


def test_teacher_forcing_with_its_own_words_is_the_free_run():
    torch.manual_seed(0)
    lstm = AutoregressiveLSTM(5, 3, 8)
    nn.init.normal_(lstm.initial)
    features = torch.randn(2, 7, 5)
    own, state = lstm(features)
    given, told = lstm(features, given=own)
    assert torch.equal(own, given) and torch.equal(state, told)
    assert not torch.allclose(lstm(features, given=own + 1)[0][:, 1:], own[:, 1:])
    assert torch.equal(lstm(features, given=own + 1)[0][:, 0], own[:, 0])


def test_the_state_goes_on():
    torch.manual_seed(0)
    lstm, features = AutoregressiveLSTM(5, 3, 8), torch.randn(2, 7, 5)
    whole, _ = lstm(features)
    first, state = lstm(features[:, :3])
    second, _ = lstm(features[:, 3:], state)
    assert torch.allclose(torch.cat([first, second], 1), whole, atol=1e-6)
    assert lstm.cell.bias_ih[8:16].tolist() == [1] * 8 and lstm.initial.shape == (19,)
    assert lstm.project.weight.shape == (8, 8) and lstm.last.weight.shape == (3, 8 + 3 + 5)


def test_actions_go_back_as_probabilities():
    lstm, features = AutoregressiveLSTM(5, 4, 8, classes=True), torch.randn(1, 2, 5)
    scores, state = lstm(features)
    assert torch.allclose(state[:, :4], scores[:, -1].softmax(1))


def test_carried_state_gives_one_long_clip(tiny_net, random_batch):
    net, batch = tiny_net(carry_state=True).eval(), random_batch(3, 4)
    features = torch.randn(3, 4, 8)
    for i, sample in enumerate(batch['data_samples']):
        sample.set_metainfo(dict(recording='a' if i < 2 else 'b'))
        sample.first = torch.tensor([i != 1, False, False, False])
    batch['data_samples'][1].scored[:2] = False  # the last clip of a recording repeats two frames
    with torch.no_grad():
        found = torch.stack([sample.pred_targets for sample in net.predict(features, batch['data_samples'])])
        whole = net.predictor(torch.cat([features[0], features[1, 2:]])[None])[0][0]
        other = net.predictor(features[2:])[0][0]
    assert torch.allclose(found[0], whole[:4]) and torch.allclose(found[1, 2:], whole[4:])
    assert found[1, :2].isnan().all() and torch.allclose(found[2], other)
    assert not torch.allclose(found[1, 2:], net.predictor(features[1:2, 2:])[0][0])
    for i, sample in enumerate(batch['data_samples'][:2]):
        sample.set_metainfo(dict(timestamps=[float(2 * i + k) for k in range(4)]))
    net.eval()
    for order in ([1, 0], [0, 2, 1]):  # shuffled clips would go on from others
        with pytest.raises(DataError, match='expected clips in order of time'):
            net.predict(features[order], [batch['data_samples'][i] for i in order])


def test_no_state_is_carried_over_the_clips_of_other_processes(tiny_net, monkeypatch):
    monkeypatch.setattr('perception.steering.models.fm_net.get_world_size', lambda: 2)
    tiny_net()
    with pytest.raises(ConfigError, match='carry_state=True in 2 processes, .* expected one process'):
        tiny_net(carry_state=True)


# ------------------------------------------------------------------------------------------------------------ streaming

@pytest.mark.parametrize('kind', ['resnet', 'cnn', 'actions', 'frames'])
def test_frame_by_frame_gives_what_the_clip_gives(tiny_net, kind):
    causal = dict(trunk=dict(causal=True))
    net = dict(resnet=lambda: tiny_net(**causal, target_mean=[1, 2, 3], target_std=[4, 5, 6]),
               cnn=lambda: cnn(), actions=lambda: tiny_net(**causal, kind=ActionNet),
               frames=lambda: tiny_net(**causal, predictor=dict(type=FramePredictor)))[kind]()
    clip = torch.rand(2, 40, 3, *((48, 48) if kind == 'cnn' else (32, 32))) * 2 - 1
    net(dict(clip=clip[:, :6]))  # statistics of the batch normalisation
    net.eval()
    with torch.no_grad():
        whole = net.in_units(net(dict(clip=clip))['outputs'])
        state, found = None, []
        for frame in clip.unbind(1):
            outputs, state = net.step(frame, state)
            found.append(outputs)
        again = net.step(clip[:, 0], net.first_state(2))[0]
    assert whole.std(1).min() > 1e-4
    assert (torch.stack(found, 1) - whole).abs().max() < 1e-5
    assert torch.allclose(again, found[0], atol=1e-6)


@pytest.mark.parametrize('options', [dict(), dict(trunk=dict(causal=True, batch_statistics=True)),
                                     dict(trunk=dict(causal=True), head=dict(norm_over_time=True))])
def test_nets_that_see_ahead_do_not_stream(tiny_net, options):
    net = tiny_net(**options).eval()
    with pytest.raises(ConfigError, match='causal=True'):
        net.step(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ConfigError, match='causal=True'):
        tiny_net(**options, deploy='step')


# ---------------------------------------------------------------------------------------------- statistics and the rest

def test_batch_statistics_are_off_by_default(tiny_net, random_batch):
    plain, switched = tiny_net(), tiny_net(trunk=dict(batch_statistics=True))
    data = plain.data_preprocessor(random_batch(2))
    for net in (plain, switched):
        net(**data)
        net.eval()
    before = {name: value.clone() for name, value in switched.state_dict().items()}
    with torch.no_grad():
        alone = [net(dict(clip=data['inputs']['clip'][:1]))['outputs'] for net in (plain, switched)]
        together = [net(dict(clip=data['inputs']['clip']))['outputs'][:1] for net in (plain, switched)]
    assert torch.allclose(alone[0], together[0], atol=1e-5)
    assert not torch.allclose(alone[1], together[1], atol=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in switched.state_dict().items())


def test_targets_of_a_training_set():
    class Recording:
        def __init__(self, rows):
            self.targets = np.array(rows, np.float32)

    class Data:
        recordings = (Recording([[1, 2, np.nan], [3, 2, np.nan]]), Recording([[5, 2, np.nan], [np.nan, 2, np.nan]]))
    mean, std = statistics(Data)
    assert mean.tolist()[:2] == [3, 2] and std.tolist()[:2] == pytest.approx([(8 / 3) ** 0.5, 0])
    assert np.isnan(mean[2]) and np.isnan(std[2])
    with pytest.raises(ConfigError, match='no recordings'):
        statistics(object())


def test_targets_stand_in_the_checkpoint(tiny_net):
    net, other = tiny_net(), tiny_net(seed=1)
    net.set_statistics([3, 2, np.nan], [1.5, 0, np.nan])
    other.load_state_dict(net.state_dict())
    assert other.target_mean.tolist() == [3, 2, 0] and other.target_std.tolist() == [1.5, 1, 1] and other.target_known
    assert torch.allclose(other.normalised(other.in_units(torch.ones(2, 3))), torch.ones(2, 3))
    with pytest.raises(ConfigError, match='both or none'):
        tiny_net(target_mean=[0, 0, 0])
    with pytest.raises(ConfigError, match='3 numbers'):
        tiny_net(target_mean=[0, 0], target_std=[1, 1])


def test_targets_that_are_learned_as_they_are_are_said_once(tiny_net, random_batch, monkeypatch):
    said = []
    monkeypatch.setattr(fm_net, 'print_log', lambda text, *_: said.append(text))
    for told in (False, True):
        net, batch = tiny_net(), random_batch()
        if told:
            net.set_statistics([0, 0, 0], [1, 1, 1])
        for _ in range(2):
            net(**net.data_preprocessor(batch), mode='loss')
        assert len(said) == 1 and 'Add dict(type=TargetStatisticsHook) to custom_hooks' in said[0]


def test_preprocessor():
    clip = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(2, 3, 4, 2)
    inputs = ClipPreprocessor()(dict(inputs=dict(clip=[clip]), data_samples=None))['inputs']
    assert inputs['clip'].unique().tolist() == [-1, 1] and torch.equal(inputs['frames'][0], clip)
    for wrong, words in (([], 'empty'), ([clip.float()], 'float32'), ([clip, clip[:1]], 'beside'),
                         ([clip[:, :1]], 'uint8')):
        with pytest.raises(DataError, match=words):
            ClipPreprocessor()(dict(inputs=dict(clip=wrong), data_samples=None))


def test_frames_of_another_size_are_refused(tiny_net):
    with pytest.raises(ConfigError, match='frames of 64 x 64 pixels, expected 32 x 32'):
        tiny_net()(dict(clip=torch.zeros(1, 2, 3, 64, 64)))


# --------------------------------------------------------------------------------------------------------------- export

def test_its_work_is_counted(tiny_net):
    net = tiny_net()
    once, twice = (count_model_macs(net, lambda net, frames=frames: net(dict(clip=torch.zeros(1, frames, 3, 32, 32))))
                   for frames in (4, 8))
    assert 1.5 < twice / once <= 2.5 and all(weight.requires_grad for weight in net.parameters())


@pytest.mark.parametrize('part', ['clip', 'step'])
def test_export_agrees_with_onnxruntime(tiny_net, tmp_path, part):
    pytest.importorskip('onnxruntime')
    net = tiny_net(trunk=dict(causal=True), target_mean=[1, 2, 3], target_std=[4, 5, 6])
    module, inputs, outputs = net.deployable(part, frames=2)
    assert list(inputs) == dict(clip=['clip'], step=['frame', 'state'])[part]
    to_onnx(module, inputs, outputs, tmp_path / 'net.onnx')
    assert compare(module, inputs, tmp_path / 'net.onnx', trials=2) < 1e-4


def test_the_deployed_step_runs_a_video(tiny_net):
    net = tiny_net(trunk=dict(causal=True), target_mean=[1, 2, 3], target_std=[4, 5, 6])
    frames = torch.rand(1, 5, 3, 32, 32) * 255
    clip, (step, _, _) = net.deployable('clip')[0], net.deployable('step')
    state, found = step.first_state, []
    with torch.no_grad():
        for frame in frames.unbind(1):
            outputs, state = step(frame, state)
            found.append(outputs)
        assert torch.allclose(torch.stack(found, 1), clip(frames)[0], atol=1e-5)


@pytest.mark.parametrize('kind', [SteeringNet, ActionNet])
def test_bfloat16(tiny_net, random_batch, kind):
    net, clip = tiny_net(kind=kind, trunk=dict(causal=True)), torch.rand(1, 3, 3, 32, 32) * 2 - 1
    with torch.autocast('cpu', torch.bfloat16):
        losses = net(**net.data_preprocessor(random_batch()), mode='loss')
        net.eval()
        state = net.step(clip[:, 0])[1]
        step = net.step(clip[:, 1], state)[0]
        whole = net.in_units(net(dict(clip=clip))['outputs'])[:, 1]
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())
    assert torch.allclose(step.float(), whole.float(), atol=0.05)
