"""Classification: reader, transforms, score, predictor, published names."""
import argparse
import re

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate

from perception.apis.config import load_config
from perception.common.image_preprocessor import ImagePreprocessor
from perception.prune.convert import torchvision
from perception.prune.datasets.digits.mini import write_digits
from perception.prune.datasets.imagenet.metric import TopKMetric
from perception.prune.datasets.imagenet.reader import ImageNet
from perception.prune.datasets.street.mini import CLASSES, write_street
from perception.prune.models.classifier import NETS, ImageClassifier
from perception.prune.predictor import ImagePredictor
from perception.prune.transforms import ImageJitter, RandomImageFlip, RandomResizedCrop, ResizeAndCut
from perception.registry import MODELS
from perception.utils.errors import CheckpointError, ConfigError, DataError


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp('data') / 'digits', count=60)


def test_digits_are_real_and_in_imagenets_folders(digits):
    train, val = (ImageNet(str(digits), split) for split in ('train', 'val'))
    assert (len(train), len(val), len(ImageNet(str(digits), 'test'))) == (50, 10, 10)
    assert len(train.metainfo['classes']) == 10 and train.metainfo['classes'][3] == '3_three'
    sample = val[0]
    assert sample['inputs']['image'].shape == (3, 32, 32) and sample['inputs']['image'].dtype == torch.uint8
    assert all(int(one['data_samples'].label) == int(one['data_samples'].sample_id[0]) for one in train)


def test_flat_images_with_a_list(tmp_path):
    for path in ('train/n01/a.JPEG', 'train/n02/b.JPEG', 'val/ILSVRC2012_val_00000001.JPEG'):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / path), np.zeros((6, 8, 3), np.uint8))
    with pytest.raises(DataError, match='ILSVRC2012_val_00000001.JPEG'):
        ImageNet(str(tmp_path), 'val')
    (tmp_path / 'meta').mkdir()
    (tmp_path / 'meta/val.txt').write_text('ILSVRC2012_val_00000001.JPEG 1\n')
    val = ImageNet(str(tmp_path), 'val')
    assert int(val[0]['data_samples'].label) == 1 and val.metainfo['classes'] == ('n01', 'n02')
    assert ImageNet.describe(dict(data_root=str(tmp_path))) == dict(classes=('n01', 'n02'))
    for line, named in (('x.JPEG 2', 'line 1'), ('x.JPEG', 'line 1'), ('x.JPEG 0', 'x.JPEG'),
                        ('ILSVRC2012_val_00000001.JPEG 1\nx.JPEG 0\n', r'x.JPEG, which is not there \(1 of 2')):
        (tmp_path / 'meta/val.txt').write_text(line)
        with pytest.raises(DataError, match=named):
            ImageNet(str(tmp_path), 'val')


def test_hidden_folders_are_no_classes_and_lists_may_begin_with_a_mark(tmp_path):
    for path in ('train/n01/a.JPEG', 'train/n02/b.JPEG', 'train/.ipynb_checkpoints/a.JPEG', 'val/x.JPEG'):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / path), np.zeros((6, 8, 3), np.uint8))
    (tmp_path / 'meta').mkdir()
    (tmp_path / 'meta/val.txt').write_bytes(b'\xef\xbb\xbfx.JPEG 1\r\n\r\n')
    train, val = (ImageNet(str(tmp_path), split) for split in ('train', 'val'))
    assert train.metainfo['classes'] == ('n01', 'n02')  # else every label is one too large
    assert [label for _, label in train.items] == [0, 1] and [label for _, label in val.items] == [1]
    (tmp_path / 'meta/val.txt').write_bytes(b'\xff\xfe\x00')
    with pytest.raises(DataError, match='val.txt: not readable'):
        ImageNet(str(tmp_path), 'val')


def test_classes_without_an_image_are_told(tmp_path, monkeypatch):
    for name in ('n01', 'n02', 'n03'):  # whose archive was not unpacked
        (tmp_path / 'train' / name).mkdir(parents=True)
        (tmp_path / 'train' / name / f'a.{"JPEG" if name != "n02" else "tar"}').touch()
    said = []
    monkeypatch.setattr('perception.prune.datasets.imagenet.reader.print_log', lambda text, *_: said.append(text))
    assert [label for _, label in ImageNet(str(tmp_path)).items] == [0, 2]
    assert '1 of 3 classes have no image (n02)' in said[0]


def test_no_images_are_named(tmp_path):
    with pytest.raises(DataError, match='train'):
        ImageNet(str(tmp_path))
    assert ImageNet.describe(dict(data_root=str(tmp_path))) == {}


def random(height, width):
    rng = np.random.default_rng(0)
    return dict(image=rng.integers(0, 255, (height, width, 3), np.uint8), rng=rng)


@pytest.mark.parametrize('size', [(40, 90), (90, 40), (1, 200), (224, 224)])
def test_parts_are_squares_and_the_middle_is_cut(size):
    assert RandomResizedCrop(24)(random(*size))['image'].shape == (24, 24, 3)
    assert ResizeAndCut(28, 24)(random(*size))['image'].shape == (24, 24, 3)


def test_the_middle_stays_in_the_middle():
    image = np.zeros((100, 200, 3), np.uint8)
    image[45:55, 95:105] = 255
    cut = ResizeAndCut(50, 40)(dict(image=image))['image'][..., 0] > 128
    assert abs(np.argwhere(cut).mean(0) - 19.5).max() <= 0.5


def test_flip_and_jitter():
    sample = random(8, 9)
    assert np.array_equal(RandomImageFlip(1.0)(sample)['image'], sample['image'][:, ::-1])
    assert RandomImageFlip(0.0)(sample)['image'] is sample['image']
    assert np.array_equal(ImageJitter(0, 0, 0)(sample)['image'], sample['image'])
    grey = dict(image=np.full((4, 4, 3), 100, np.uint8), rng=np.random.default_rng(0))
    changed = ImageJitter(0.5, 0, 0)(grey)['image']
    assert 50 <= changed.min() == changed.max() <= 150 and changed.max() != 100


@pytest.mark.parametrize('make', [lambda: RandomResizedCrop(0), lambda: RandomResizedCrop(8, area=(0.5, 0.1)),
                                  lambda: RandomImageFlip(2), lambda: ImageJitter(3), lambda: ResizeAndCut(10, 20)])
def test_numbers_out_of_range_are_refused(make):
    with pytest.raises(ConfigError, match='expected'):
        make()


def test_ranks_are_counted_as_sorted_lists_give_them():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 6, (50, 8)) / 6 + 0.01, rng.integers(0, 8, 50)  # many ties
    metric = TopKMetric()
    metric.process(None, [dict(label=torch.tensor(label), scores=torch.tensor(row))
                          for label, row in zip(labels, scores)])
    found = metric.compute_metrics(metric.results)
    order = np.argsort(-scores, axis=1, kind='stable')
    for k in (1, 5):
        assert found[f'top{k}'] == np.mean([label in row[:k] for label, row in zip(labels, order)])
    assert found['cross_entropy'] == pytest.approx(-np.log(scores[range(50), labels]).mean())
    with pytest.raises(DataError, match='label'):
        metric.process(None, [dict(scores=torch.ones(3))])
    with pytest.raises(DataError, match='1 scores of 2 that are NaN'):  # no score is above NaN: it would be found
        metric.process(None, [dict(label=torch.tensor(1), scores=torch.tensor([0, torch.nan]))])


def classifier(net='resnet18', **arguments):
    return ImageClassifier(data_preprocessor=dict(type=ImagePreprocessor), net=net, num_classes=10, width=0.125,
                           **arguments)


def test_a_step_a_prediction_and_a_picture(digits, tmp_path):
    torch.manual_seed(0)  # a class of more than half would have a bar that covers the median
    data = ImageNet(str(digits), 'train')
    model, batch = classifier(), pseudo_collate([data[0], data[1]])
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    assert list(losses) == ['loss_class'] and float(losses['loss_class'].detach()) > 0
    small = load_config('configs/peel/resnet18_imagenet.py', mini=True)  # is exported for what it is tested with
    size = small.test_dataloader.dataset.pipeline[-1]['size']
    assert MODELS.build(small.model).deployable()[1]['images'].shape == (1, 3, size, size)
    predictor = ImagePredictor(model.eval(), dict(type=ImageNet, data_root=str(digits), pipeline=[
        dict(type=ResizeAndCut, short=32, size=32)]))
    image = next(digits.glob('val/*/*.png'))
    sample = predictor(image)
    assert float(sample.scores.sum()) == pytest.approx(1, abs=1e-5)
    assert int(sample.pred_label) == int(sample.scores.argmax())
    picture = predictor.draw(image, sample, title='a digit')
    assert picture.shape[1] == 480 and picture.shape[0] > 600
    first = picture[-24 * 5 - 4:-24 * 4].reshape(-1, 3).astype(int)  # the likeliest class: light letters on a dark bar
    assert first.max() > 200 > 2 * np.median(first, axis=0).max()
    for array in (np.zeros((32, 32), np.uint8), np.zeros((32, 32, 3)), np.zeros((0, 32, 3), np.uint8)):
        with pytest.raises(DataError, match=r'expected \(H, W, 3\) uint8'):
            predictor(array)
    assert '_' in predictor.save('json', tmp_path, 'x', image, sample).read_text()
    assert predictor.draw_sample(data[0]).dtype == np.uint8


def test_labels_that_the_net_does_not_have_are_refused(digits):
    data = ImageNet(str(digits), 'train')
    model = ImageClassifier(data_preprocessor=dict(type=ImagePreprocessor), net='resnet18', num_classes=2, width=0.125)
    batch = pseudo_collate([data[len(data) - 1], data[0]])
    with pytest.raises(DataError, match='label 9, expected 0..1'):
        model(**model.data_preprocessor(batch, True), mode='loss')


def published(net: str) -> dict:
    """Weights under torchvision's names."""
    weights = ImageClassifier(net=net).state_dict()
    if not net.startswith('resnet'):
        return {name.removeprefix('net.'): value for name, value in weights.items()}
    names = {'backbone.stem.0': 'conv1', 'backbone.stem.1': 'bn1', 'backbone.stage': 'layer'}
    found = {}
    for name, value in weights.items():
        name = name.removeprefix('net.')
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        found[name] = value
    return found


@pytest.mark.parametrize('net', ['resnet18', *NETS])
def test_published_names_are_read(net):
    weights = published(net)
    known = {'resnet18': 'layer4.1.bn2.running_var', 'mobilenet_v2': 'features.17.conv.2.weight',
             'mobilenet_v3_small': 'features.4.block.2.fc1.bias',
             'efficientnet_b0': 'features.6.3.block.1.0.weight'}[net]
    assert known in weights and torchvision.fits(weights)
    ours, usage = torchvision.convert(weights, argparse.Namespace())  # which compares them with the net's
    assert net in usage and len(ours) == len(weights)
    del weights[known]
    with pytest.raises(CheckpointError, match=re.escape(known.rpartition('.')[2])):
        torchvision.convert(weights, argparse.Namespace())


def test_other_weights_are_left_to_others():
    assert not torchvision.fits({'backbone.conv1.weight': torch.ones(1)})


def test_digits_out_of_range_are_refused(tmp_path):
    with pytest.raises(DataError, match='count=5'):
        write_digits(tmp_path / 'x', count=5)


def test_things_in_streets_are_in_imagenets_folders(mini_set):
    pytest.importorskip('open3d', reason='open3d, which renders the toy world, is not installed')
    train, val = (ImageNet(str(mini_set('street')), split) for split in ('train', 'val'))
    assert train.metainfo['classes'] == tuple(CLASSES) and len(CLASSES) == 10
    counts = np.bincount([int(one['data_samples'].label) for one in train])
    assert counts.tolist() == [2] + [1] * 9 and len(val) == 10
    assert min(float(one['inputs']['image'].float().std()) for one in train) > 3
    with pytest.raises(DataError, match='val=3'):
        write_street('x', val=3)
