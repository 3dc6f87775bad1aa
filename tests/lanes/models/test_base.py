"""The base with the smallest network: one convolution and, for the existence, the mean colour."""
import numpy as np
import pytest
import torch
from mmengine.model import BaseDataPreprocessor
from torch import nn

from perception.common.image_preprocessor import ImagePreprocessor
from perception.common.structures import LaneSample
from perception.distill.taps import record
from perception.lanes.losses import existence_loss, soft_iou_loss, weighted_cross_entropy
from perception.lanes.models.agnostic import AgnosticLaneNet
from perception.lanes.models.base import LaneNet
from perception.lanes.models.enet import ENet
from perception.lanes.models.erfnet import ERFNet
from perception.lanes.models.pspnet import PSPNet
from perception.lanes.models.resnet_seg import ResNetSeg
from perception.lanes.models.scnn import SCNN
from perception.utils.checkpoint import load_weights
from perception.utils.errors import CheckpointError, ConfigError, DataError


class Tiny(LaneNet):
    size_multiple = 4

    def __init__(self, data_preprocessor=None, num_classes=3, num_lanes=2, input_size=(16, 20), decoder=None, **losses):
        super().__init__(data_preprocessor, num_classes, num_lanes, input_size, decoder, **losses)
        self.conv = nn.Conv2d(3, num_classes, 1)
        self.exist = nn.Linear(3, num_lanes) if num_lanes else None

    def compute(self, images):
        outputs = dict(logits=self.conv(images))
        if self.exist is not None:
            outputs['exist_logits'] = self.exist(images.mean((2, 3)))
        return outputs


class MiddleDecoder:
    """One "lane" for each existing slot: a point whose u is the slot and whose v is the image's height."""

    def __call__(self, lane_probs, exist_probs, metas):
        return [[np.array([[slot, meta['original_shape'][0]]], float) for slot, p in enumerate(exist) if p > 0.5]
                for exist, meta in zip(exist_probs, metas)]


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (2, 16, 20))
    labels[0, :3] = 255
    return dict(images=torch.randn(2, 3, 16, 20), labels=labels, exist=torch.tensor([[1.0, 0], [1, 1]]))


def test_loss_is_the_weighted_sum_of_the_room(inputs):
    net = Tiny(seg_weight=2, iou_weight=0.3, exist_weight=0.5, background_weight=0.7)
    out = net(inputs)
    losses = net(inputs, mode='loss')
    labels = inputs['labels']
    expected = dict(
        loss_seg=2 * weighted_cross_entropy(out['logits'], labels, torch.tensor([0.7, 1, 1])),
        loss_iou=0.3 * soft_iou_loss(out['logits'].softmax(1), labels),
        loss_exist=0.5 * existence_loss(out['exist_logits'], inputs['exist']))
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)


def test_class_weights_replace_the_background_weight(inputs):
    net = Tiny(class_weights=[1, 5, 2])
    expected = weighted_cross_entropy(net(inputs)['logits'], inputs['labels'], torch.tensor([1.0, 5, 2]))
    torch.testing.assert_close(net(inputs, mode='loss')['loss_seg'], expected)
    assert not any('class_weights' in name for name in net.state_dict())


@pytest.mark.parametrize(('arguments', 'expected'), [
    (dict(num_lanes=0), {'loss_seg', 'loss_iou'}), (dict(iou_weight=0), {'loss_seg', 'loss_exist'}),
    (dict(exist_weight=0), {'loss_seg', 'loss_iou'})])
def test_terms_without_weight_or_head_are_left_out(inputs, arguments, expected):
    assert Tiny(**arguments)(inputs, mode='loss').keys() == expected


def test_a_network_without_existence_head_takes_any_multiple(inputs):
    net = Tiny(num_lanes=0)
    assert 'exist_logits' not in net(dict(images=torch.zeros(1, 3, 8, 24)))
    (sample,) = net(dict(images=torch.zeros(1, 3, 8, 24)), mode='predict')
    assert 'exist_probs' not in sample and sample.pred_labels.shape == (8, 24)


def test_predictions_are_written_into_the_samples(inputs):
    net = Tiny(decoder=dict(type=MiddleDecoder))
    out = net(inputs)
    samples = [LaneSample(metainfo=dict(original_shape=(90 + i, 160))) for i in range(2)]
    returned = net(inputs, samples, mode='predict')
    assert all(a is b for a, b in zip(returned, samples))
    for i, sample in enumerate(samples):
        torch.testing.assert_close(sample.lane_probs, out['logits'].softmax(1)[i])
        torch.testing.assert_close(sample.exist_probs, out['exist_logits'].sigmoid()[i])
        assert torch.equal(sample.pred_labels, out['logits'][i].argmax(0))
        slots = np.flatnonzero(out['exist_logits'][i].detach() > 0)
        assert [lane.tolist() for lane in sample.pred_lanes] == [[[slot, 90 + i]] for slot in slots]


def test_a_head_that_nothing_trains_is_not_asked(inputs):
    asked = []
    for weight in (0.1, 0):
        Tiny(exist_weight=weight, decoder=lambda probs, exist, metas: asked.append(exist) or [[], []])(
            inputs, mode='predict')
    assert asked[0].shape == (2, 2) and asked[1] is None


@pytest.mark.parametrize('kind', [AgnosticLaneNet, ENet, ERFNet, PSPNet, ResNetSeg, SCNN])
def test_without_weight_there_is_no_existence_head(kind):
    """Neither in weights, which a net that asks one then refuses, nor in predictions and what is deployed."""
    net, other = (kind(num_classes=2, num_lanes=4, input_size=(32, 64), exist_weight=weight) for weight in (0, .1))
    assert net.exist is None and not any('exist' in name for name in net.state_dict())
    with pytest.raises(CheckpointError, match=r'\d+ missing \(exist\.'):
        load_weights(other, net.state_dict())
    (sample,) = net.eval()(dict(images=torch.zeros(1, 3, 32, 64)), mode='predict')
    assert 'exist_probs' not in sample and 'exist_logits' not in net.deployable()[2]


def test_predictions_without_samples_and_decoder(inputs):
    samples = Tiny()(inputs, mode='predict')
    assert [type(sample) for sample in samples] == [LaneSample, LaneSample]
    assert not any('pred_lanes' in sample for sample in samples)


def test_predictions_of_half_precision_are_float32(inputs):
    with torch.autocast('cpu', torch.bfloat16):
        sample = Tiny()(inputs, mode='predict')[0]
    assert sample.lane_probs.dtype == sample.exist_probs.dtype == torch.float32


def test_logits_can_be_recorded_in_every_mode(inputs):
    net = Tiny()
    for mode in ('tensor', 'loss', 'predict'):
        with record(net, dict(logits='logits')) as taps:
            net(inputs, mode=mode)
        torch.testing.assert_close(taps['logits'], net.conv(inputs['images']))


def test_a_training_step_changes_the_weights(inputs):
    net = Tiny(data_preprocessor=BaseDataPreprocessor())
    before = net.conv.weight.clone()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    loss, _ = net.parse_losses(net(**net.data_preprocessor(dict(inputs=inputs, data_samples=None), True), mode='loss'))
    loss.backward()
    optimizer.step()
    assert not torch.equal(net.conv.weight, before)


# --- bad input -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(('arguments', 'message'), [
    (dict(input_size=(16, 21)), r'Tiny: input_size=\(16, 21\), expected .* multiples of 4'),
    (dict(input_size=(0, 20)), 'positive multiples'), (dict(input_size=(16, 20, 3)), r'expected \(height, width\)'),
    (dict(input_size=(12, 20)), 'at least 16 x 16'), (dict(num_classes=1), 'at least 2 classes'),
    (dict(num_lanes=-1), 'num_lanes=-1'), (dict(class_weights=[1, 2]), '2 class_weights for 3 classes')])
def test_bad_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Tiny(**arguments)


def test_bad_mode(inputs):
    with pytest.raises(ConfigError, match="mode='tensors'.*Did you mean tensor"):
        Tiny()(inputs, mode='tensors')


@pytest.mark.parametrize(('arguments', 'shape', 'message'), [
    (dict(), (2, 3, 16, 24), 'Tiny: images of 16 x 24 pixels, expected 16 x 20, which its existence head needs'),
    (dict(num_lanes=0), (2, 3, 16, 22), 'images of 16 x 22 pixels, expected multiples of 4'),
    (dict(), (2, 1, 16, 20), r'expected \(B, 3, H, W\)'), (dict(), (3, 16, 20), r'expected \(B, 3, H, W\)')])
def test_images_that_the_network_cannot_take(arguments, shape, message):
    with pytest.raises(DataError, match=message):
        Tiny(**arguments)(dict(images=torch.zeros(shape)))


@pytest.mark.parametrize(('change', 'message'), [
    (dict(labels=None), 'a batch without labels'), (dict(labels=torch.zeros(2, 16, 24).long()), 'labels of shape'),
    (dict(labels=torch.full((2, 16, 20), 3)), r'a label 3, expected 0\.\.2 or 255'),
    (dict(labels=torch.full((2, 16, 20), -1)), 'a label -1'), (dict(exist=None), 'no `exist`'),
    (dict(exist=torch.ones(2, 4)), r'`exist` of shape \(2, 4\), expected \(2, 2\)')])
def test_bad_labels(inputs, change, message):
    with pytest.raises(DataError, match=message):
        Tiny()(dict(inputs, **change), mode='loss')


def test_a_network_without_compute_says_so():
    with pytest.raises(NotImplementedError, match='LaneNet has no compute'):
        LaneNet()(dict(images=torch.zeros(1, 3, 288, 800)))


def test_what_is_deployed_normalises_by_itself():
    net = Tiny(ImagePreprocessor(mean=(1, 2, 3), std=(4, 5, 6)))
    module, inputs, outputs = net.train().deployable()
    assert outputs == ['logits', 'exist_logits'] and not module.training and not net.training
    images = inputs['images']
    assert list(inputs) == ['images'] and images.shape == (1, 3, 16, 20) and 200 < images.max() <= 255
    expected = net.compute(net.data_preprocessor.normalise(images))
    for name, value in zip(outputs, module(images)):
        assert torch.equal(value, expected[name])
    assert Tiny(ImagePreprocessor(), num_lanes=0).deployable()[2] == ['logits']
