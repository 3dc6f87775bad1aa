"""Classifying, explaining and drawing images."""
import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger

from perception.common.visual.charts import save_chart
from perception.plugins.medical import draw
from perception.plugins.medical.datasets.aptos.reader import APTOS2019
from perception.plugins.medical.draw import DrawClasses
from perception.plugins.medical.gradcam import grad_cam
from perception.plugins.medical.predictor import ClassPredictor
from perception.utils.errors import CheckpointError, ConfigError, DataError

DATA = dict(type=APTOS2019, input_size=(32, 32))


def test_grad_cam_is_the_weighted_map(net):
    images = torch.randn(2, 3, 64, 64)
    classes = torch.tensor([1, 3])
    maps = grad_cam(net, images, classes)
    x = images
    for part in net.features.children():
        x = part(x)
    x = x.relu().detach()
    # of this net the gradient is the same at all places of the map
    weight = (net.classifier.weight @ net.fc_layer.weight)[classes].detach() / x[0, 0].numel()
    expected = (weight[:, :, None, None] * x).sum(1).relu()
    expected = expected / expected.amax((1, 2), keepdim=True).clamp(min=1e-12)
    torch.testing.assert_close(maps, expected, atol=1e-5, rtol=1e-4)
    assert all(p.grad is None for p in net.parameters())
    assert grad_cam(net, images).shape == (2, 4, 4)


@pytest.fixture
def checkpoint(net, tmp_path):
    """A training checkpoint whose mean teacher is another net."""
    weights = {f'student.{k}': v for k, v in net.state_dict().items()}
    weights.update({f'teachers.mean.model.{k}': v + 0.01 if v.is_floating_point() else v
                    for k, v in net.state_dict().items()})
    torch.save(dict(state_dict=weights), tmp_path / 'epoch_1.pth')
    return tmp_path / 'epoch_1.pth'


@pytest.fixture
def image(tmp_path):
    (tmp_path / 'in').mkdir()
    cv2.imwrite(str(tmp_path / 'in/eye.png'), np.random.default_rng(0).integers(0, 256, (40, 60), np.uint8))
    return tmp_path / 'in/eye.png'


def darker(sample):
    return dict(sample, image=sample['image'] // 2)


def test_images_are_seen_as_in_a_test(net, image):
    """Also where the config's pipeline of the test does something to them."""
    plain, dark = ClassPredictor(net, DATA), ClassPredictor(net, dict(DATA, pipeline=[darker]))
    array = cv2.resize(cv2.imread(str(image)), (32, 32), interpolation=cv2.INTER_AREA)
    torch.testing.assert_close(dark(array).pred_scores, plain(array // 2).pred_scores)
    assert not torch.equal(dark(array).pred_scores, plain(array).pred_scores)


def test_predicts_files_and_arrays_alike_and_saves_them(net, image, tmp_path):
    predictor = ClassPredictor(net, DATA)
    file, array = predictor.predict([image, cv2.imread(str(image))])
    torch.testing.assert_close(file.pred_scores, array.pred_scores)
    assert file.sample_id == 'eye' and file.original_shape == (40, 60)
    record = json.loads(predictor.save('json', tmp_path, 'eye', image, file).read_text())
    assert record['label'] == int(file.pred_label) and len(record['scores']) == 5
    assert record['name'] == max(record['scores'], key=record['scores'].get)
    with pytest.raises(DataError, match=r'float64 of shape \(4, 4\)'):
        predictor(np.zeros((4, 4)))
    with pytest.raises(DataError, match='in'):
        list(ClassPredictor(net, DATA).sources(tmp_path / 'nothing'))


def test_images_of_any_shape_are_drawn(net):
    predictor = ClassPredictor(net, DATA)
    for shape in ((1, 2000, 3), (2000, 1, 3), (1, 1, 3)):
        image = np.zeros(shape, np.uint8)
        sample = predictor(image)
        assert predictor.draw(image, sample).shape[2] == predictor.view('cam', image, sample, None, 'x').shape[2] == 3


def test_shows_where_student_and_teacher_look(net, image, checkpoint):
    predictor = ClassPredictor(net, DATA, teacher=str(checkpoint))
    assert torch.equal(predictor.model.classifier.weight + 0.01, predictor.teacher.classifier.weight)
    (name, both), = predictor.pictures(image.parent, view='cam')
    (_, alone), = ClassPredictor(net, DATA).pictures(image, view='cam')
    (_, plain), = predictor.pictures(image)
    assert name == 'eye' and both.shape[1] > alone.shape[1] > plain.shape[1] / 2
    assert set(predictor.cams(image)) == {'student', 'teacher'}
    with pytest.raises(ConfigError, match='--view cam: no net'):
        ClassPredictor(None, DATA).view('cam', image, None, None, 'eye')


def test_a_checkpoint_without_teacher_is_refused(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / 'model.pth')
    with pytest.raises(CheckpointError, match='teachers.mean.model'):
        ClassPredictor(net, DATA, teacher=str(tmp_path / 'model.pth'))


def test_draws_features_confusions_and_samples(net, aptos, tmp_path, monkeypatch):
    MMLogger.get_instance('medical', logger_name='medical')
    data = APTOS2019(aptos, 'val', input_size=(32, 32))
    drawer = DrawClasses(tmp_path / 'out', max_images=2)
    drawer.dataset_meta = data.metainfo
    from mmengine.dataset import pseudo_collate
    batch = pseudo_collate([data[i] for i in range(4)])
    samples = net.test_step(batch)
    drawer.process(batch, [sample.to_dict() for sample in samples])
    charts = []
    monkeypatch.setattr(draw, 'save_chart', lambda path, chart, endings: charts.append(chart) or save_chart(
        path, chart, endings))
    assert drawer.evaluate(4) == {}
    axes, = (axes for axes in charts[1].axes if axes.get_xlabel())
    assert (axes.get_ylabel(), axes.get_xlabel()) == ('true class', 'predicted as')
    with pytest.raises(DataError, match='has no feature'):
        drawer.process(batch, [dict(pred_scores=samples[0].pred_scores)])
    with pytest.raises(ConfigError, match='max_images=-1'):
        DrawClasses(tmp_path, max_images=-1)
    assert {path.name for path in (tmp_path / 'out').glob('*.png')} == {
        'features.png', 'confusion.png', f'{data.ids[0]}.png', f'{data.ids[1]}.png'}
    assert ClassPredictor(None, DATA).draw_sample(data[0]).shape[2] == 3
