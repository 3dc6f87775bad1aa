"""Predictors of the nets that are mimicked, and the score of flow."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate

from perception.common.flow import dis_flow
from perception.common.formats.images import read_label_image
from perception.common.image_preprocessor import ImagePreprocessor
from perception.lanes.models.pspnet import PSPNet
from perception.steering.datasets.cityscapes.reader import Cityscapes
from perception.steering.flow_metric import FlowMetric
from perception.steering.image_predictors import FlowPredictor, StreetPredictor, flow_colors
from perception.steering.models.flownet_s import FlowNetS
from perception.utils.errors import DataError


class Data:
    """Describes three classes."""

    METAINFO = dict(classes=('road', 'car', 'sky'), palette=((128, 64, 128), (0, 0, 142), (70, 130, 180)))

    @classmethod
    def describe(cls, config):
        return cls.METAINFO


def test_classes_of_street_images(tmp_path):
    net = PSPNet(dict(type=ImagePreprocessor), 3, input_size=(32, 64), depth=18, base_channels=4, channels=8,
                 scales=(2,), iou_weight=0.0)
    predictor = StreetPredictor(net.eval(), dict(type=Data, input_size=(32, 64)))
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    sample = predictor(image)
    assert sample.pred_labels.shape == (32, 64)
    large = np.random.default_rng(1).integers(0, 256, (128, 256, 3), np.uint8)
    tested = Cityscapes.pack(SimpleNamespace(input_size=(32, 64)), dict(image=large, info={}), 0)
    with torch.no_grad():
        expected = net.test_step(pseudo_collate([tested]))[0].pred_labels
    assert torch.equal(predictor(large).pred_labels, expected)
    halved = StreetPredictor(net, dict(type=Data, input_size=(32, 64), pipeline=[
        lambda sample: dict(sample, image=sample['image'][::2])]))
    assert torch.equal(halved(large).pred_labels, predictor(large[::2]).pred_labels)
    labels = read_label_image(predictor.save('png', tmp_path, 'a', image, sample))
    assert labels.shape == (60, 90) and set(np.unique(labels)) <= {0, 1, 2}
    assert np.array_equal(np.load(predictor.save('npy', tmp_path, 'a', image, sample)), labels)
    assert predictor.draw(image, sample, title='street').shape[1] == 90
    with pytest.raises(DataError, match='float64'):
        predictor(image / 255)


def test_flow_of_a_video(tmp_path):
    torch.manual_seed(0)
    net = FlowNetS(input_size=(64, 64), base_channels=2).eval()
    predictor = FlowPredictor(net, dict(type=Data, input_size=(64, 64)))
    frames = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    whole = predictor(frames).pred_flow
    assert whole.shape == (4, 2, 64, 64) and whole[0].isnan().all()
    found = torch.cat([predictor(frame).pred_flow for frame in frames])
    assert torch.allclose(found[1:], whole[1:], atol=1e-4) and found[0].isnan().all()
    assert predictor.draw(frames[1], predictor(frames[2]), title='flow').shape[2] == 3
    assert np.load(predictor.save('npy', tmp_path, 'a', frames[1], predictor(frames[3]))).shape == (1, 2, 64, 64)
    assert predictor.save('png', tmp_path, 'a', frames[1], predictor(frames[3])).stat().st_size > 50


def test_colours_of_flow():
    flow = np.zeros((2, 1, 3), np.float32)
    flow[0, 0] = (2, -2, np.nan)
    right, left, none = flow_colors(flow)[0]
    assert right.tolist() == [255, 0, 0] and left.tolist() == [0, 255, 255] and none.tolist() == [255] * 3


def test_end_point_errors():
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    dis = torch.from_numpy(dis_flow(*frames))
    truth = torch.full((2, 2, 32, 32), torch.nan)
    truth[1, :, :16] = torch.tensor([3.0, 4.0]).view(2, 1, 1)
    found = torch.stack([torch.full_like(dis, torch.nan), dis + torch.tensor([0.6, 0.8]).view(2, 1, 1)])
    metric, batch = FlowMetric(), dict(inputs=dict(clip=[torch.from_numpy(frames).permute(0, 3, 1, 2)]))
    metric.process(batch, [dict(pred_flow=found, scored=torch.ones(2))])
    assert metric.compute_metrics(metric.results)['EPE_dis'] == pytest.approx(1, abs=1e-4)
    metric.results.clear()
    metric.process(batch, [dict(pred_flow=torch.zeros(2, 2, 32, 32), flow=truth, scored=torch.ones(2))])
    scores = metric.compute_metrics(metric.results)
    assert scores['EPE'] == scores['EPE_zero'] == pytest.approx(5) and scores['EPE_dis'] == scores['EPE_dis_zero']
    assert scores['EPE_of_dis'] == pytest.approx((dis - truth[1])[:, :16].norm(dim=0).mean().item(), rel=1e-4)
    with pytest.raises(DataError, match='no pred_flow'):
        metric.process(batch, [dict(sample_id='a')])


def test_frames_of_two_clips_count_once():
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    truth, found = torch.zeros(4, 2, 32, 32), torch.zeros(4, 2, 32, 32)
    found[1], found[2], found[3] = 9, 1, 2
    metric = FlowMetric()
    metric.process(dict(inputs=dict(clip=[torch.from_numpy(frames).permute(0, 3, 1, 2)])),
                   [dict(pred_flow=found, flow=truth, scored=torch.tensor([False, False, True, True]))])
    assert metric.compute_metrics(metric.results)['EPE'] == pytest.approx(1.5 * 2 ** 0.5)
