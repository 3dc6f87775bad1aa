"""Against outputs of the authors' network (goldens)."""
import numpy as np
import pytest
import torch

from perception.distill.taps import record
from perception.lanes.convert import erfnet
from perception.lanes.models.erfnet import ERFNet
from perception.utils.errors import ConfigError

SMALL = dict(input_size=(32, 48))


def parameters(**arguments):
    with torch.device('meta'):
        return sum(p.numel() for p in ERFNet(**arguments).parameters())


def test_number_of_parameters():
    assert parameters() == 2_609_183  # 208 x 976, the lane papers' network
    assert parameters(num_classes=37, num_lanes=0, input_size=(496, 1488)) == 2_070_134  # IntRA-KD's student


def test_network_equals_the_published_one(convert, golden):
    arrays = golden('erfnet_A')
    published = {key[11:]: value.float() for key, value in arrays.items() if key.startswith('state_dict/')}
    weights, net, arguments = convert(erfnet, published)
    assert arguments['input_size'] == (208, 976)
    net = net(**arguments).eval()
    net.load_state_dict(weights)
    assert sum(p.numel() for p in net.parameters()) == arrays['num_parameters']
    images = arrays['input_bgr_uint8'] - arrays['input_mean_bgr'][:, None, None]
    taps = dict(encoder_layers_5='stage1', encoder_layers_10='stage2', encoder_layers_14='stage3',
                decoder_layers_2='decoder.2')
    with torch.no_grad(), record(net, taps) as outputs:
        out = net(dict(images=images))
    logits = out['logits']
    assert float((logits[:, :, ::4, ::4] - arrays['seg_logits_stride4']).abs().max()) < 5e-3
    assert float((logits[:, :, 100] - arrays['seg_logits_row100']).abs().max()) < 5e-3
    counts = logits.argmax(1).flatten().bincount(minlength=5)
    assert int((counts - arrays['seg_argmax_counts']).abs().max()) <= 40  # of 406,016; rounding turns up to 5
    assert float((out['exist_logits'] - arrays['exist_logits']).abs().max()) < 1e-4
    assert float((out['exist_logits'].sigmoid() - arrays['exist_sigmoid']).abs().max()) < 1e-4
    for tap, value in outputs.items():
        attention, sample = arrays[f'{tap}_attention_sumsq_stride2'], arrays[f'{tap}_sample']
        torch.testing.assert_close((value ** 2).sum(1)[:, ::2, ::2], attention, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(value[:, ::16, ::4, ::8], sample, rtol=1e-3, atol=1e-3)


def test_taps_and_outputs():
    net = ERFNet(**SMALL, num_classes=7, num_lanes=6).eval()
    taps = ('stage1', 'stage2', 'stage3', 'head_input', 'logits')
    with torch.no_grad(), record(net, {name: name for name in taps}) as out:
        result = net(dict(images=torch.randn(2, 3, 32, 48)))
    assert {name: tuple(value.shape) for name, value in out.items()} == dict(
        stage1=(2, 64, 8, 12), stage2=(2, 128, 4, 6), stage3=(2, 128, 4, 6), head_input=(2, 16, 16, 24),
        logits=(2, 7, 32, 48))
    assert result['exist_logits'].shape == (2, 6)


@pytest.mark.parametrize('half', [False, True])
def test_every_weight_learns_but_that_of_the_encoders_own_classifier(half):
    torch.manual_seed(0)
    net = ERFNet(**SMALL).train()
    inputs = dict(images=torch.randn(2, 3, 32, 48), labels=torch.randint(0, 5, (2, 32, 48)), exist=torch.ones(2, 4))
    with torch.autocast('cpu', torch.bfloat16, enabled=half):
        losses = net(inputs, mode='loss')
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    sum(losses.values()).backward()
    without = [name for name, p in net.named_parameters() if p.grad is None]
    assert without == ['encoder_classifier.weight', 'encoder_classifier.bias']
    assert not any(p.requires_grad for p in net.encoder_classifier.parameters())  # DDP would wait for its gradient
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_a_size_that_cannot_be_halved_three_times_is_refused():
    with pytest.raises(ConfigError, match=r'ERFNet: input_size=\(212, 976\), expected .* multiples of 8'):
        ERFNet(input_size=(212, 976))


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ConfigError, match="LaneExist: pool='mean', expected 'avg' or 'max'"):
        ERFNet(exist_pool='mean')


def test_onnx_runtime_gives_the_same(exported, shuffled, tmp_path):
    net = shuffled(ERFNet(**SMALL))
    images = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        out = net(dict(images=images))
    for ours, theirs in zip(out.values(), exported(net, images, tmp_path / 'erfnet.onnx')):
        np.testing.assert_allclose(theirs, ours.numpy(), rtol=1e-4, atol=1e-5)


def test_a_narrower_net():
    net = ERFNet(**SMALL, base_channels=4)
    with torch.no_grad(), record(net, {name: name for name in ('stage1', 'stage3', 'head_input')}) as out:
        assert net(dict(images=torch.zeros(1, 3, 32, 48)))['logits'].shape == (1, 5, 32, 48)
    assert {name: tuple(x.shape[1:]) for name, x in out.items()} == dict(stage1=(16, 8, 12), stage3=(32, 4, 6),
                                                                         head_input=(4, 16, 24))
    with pytest.raises(ConfigError, match='base_channels=3'):
        ERFNet(**SMALL, base_channels=3)
