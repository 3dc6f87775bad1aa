"""Cityscapes: reader, official score and submission."""
import zipfile

import cv2
import numpy as np
import pytest
import torch

from perception.common.structures import LaneSample
from perception.steering.datasets.cityscapes.metric import CATEGORIES, CityscapesMetric, scores
from perception.steering.datasets.cityscapes.reader import CLASSES, TRAIN_TO_ID, Cityscapes, train_ids
from perception.steering.datasets.cityscapes.submission import CityscapesSubmission, validate_cityscapes
from perception.steering.transforms import FlipImage
from perception.utils.errors import ConfigError, DataError

NAME = 'aachen_000000_000019'


@pytest.fixture
def root(tmp_path):
    """Two images of train, one of val and one of test, 8 x 16 pixels; ids go from 0 to 33 along the rows."""
    ids = (np.arange(128, dtype=np.uint8) % 34).reshape(8, 16)
    for split, city, count in (('train', 'aachen', 2), ('val', 'ulm', 1), ('test', 'berlin', 1)):
        for k in range(count):
            stem = f'{split}/{city}/{city}_{k:06d}_000019'
            for kind, ending, image in (('leftImg8bit', 'leftImg8bit', np.dstack([ids] * 3)),
                                        ('gtFine', 'gtFine_labelIds', ids)):
                path = tmp_path / kind / f'{stem}_{ending}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                if split != 'test' or kind != 'gtFine':
                    cv2.imwrite(str(path), image)
    return tmp_path


def test_ids_become_train_ids(root):
    train = Cityscapes(root)
    item = train[1]
    labels = item['data_samples'].labels.numpy().ravel()
    table = {entry.id: k for k, entry in enumerate(CLASSES)}
    assert labels.tolist() == [table.get(k % 34, 255) for k in range(128)]
    assert item['inputs']['image'].shape == (3, 8, 16) and 'full_labels' not in item['data_samples']
    assert item['data_samples'].sample_id == 'aachen_000001_000019' and len(train) == 2
    assert [entry.id for entry in CLASSES] == [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]


def test_val_has_labels_at_the_original_size_too(root):
    sample = Cityscapes(root, 'val', input_size=(4, 8))[0]['data_samples']
    assert sample.labels.shape == (4, 8) and sample.full_labels.shape == (8, 16)
    assert sample.original_shape == (8, 16) and sample.input_shape == (4, 8)
    assert 'labels' not in Cityscapes(root, 'test')[0]['data_samples']


def test_images_are_mirrored_with_their_labels(root):
    plain, mirrored = (Cityscapes(root, pipeline=[dict(type=FlipImage, prob=p)])[0] for p in (0, 1))
    assert torch.equal(plain['inputs']['image'].flip(2), mirrored['inputs']['image'])
    assert torch.equal(plain['data_samples'].labels.flip(1), mirrored['data_samples'].labels)


def test_what_is_missing_or_wrong_is_said(root, tmp_path):
    with pytest.raises(ConfigError, match='trian'):
        Cityscapes(root, 'trian')
    with pytest.raises(DataError, match=r'no .*leftImg8bit'):
        Cityscapes(tmp_path / 'nothing')
    label = root / f'gtFine/train/aachen/{NAME.replace("000000", "000001", 1)}_gtFine_labelIds.png'
    cv2.imwrite(str(label), np.full((8, 16), 77, np.uint8))
    with pytest.raises(DataError, match=r'ids \[77\] at 128 pixels'):
        Cityscapes(root)[1]
    cv2.imwrite(str(label), np.zeros((4, 16), np.uint8))
    with pytest.raises(DataError, match='4 x 16 pixels for an image of 8 x 16'):
        Cityscapes(root)[1]
    label.unlink()
    with pytest.raises(DataError, match=r'000001_000019_gtFine_labelIds\.png: no such file \(1 of 2'):
        Cityscapes(root)
    assert train_ids(np.uint8([[255, 0]]), 'x').tolist() == [[255, 255]]


# --- score ---
def official(pred_ids, true_ids):
    """IoU of classes and categories as the official script states them, over pairs of official ids."""
    pairs = np.zeros((256, 256), np.int64)
    np.add.at(pairs, (true_ids.ravel(), pred_ids.ravel()), 1)
    scored = [entry.id for entry in CLASSES]
    found = {}
    for entry in CLASSES:
        hit = pairs[entry.id, entry.id]
        wrong = sum(pairs[other, entry.id] for other in scored if other != entry.id)
        union = hit + wrong + pairs[entry.id].sum() - hit
        found[entry.name] = hit / union if union else np.nan
    for category in CATEGORIES:
        own = [entry.id for entry in CLASSES if entry.category == category]
        hit = pairs[np.ix_(own, own)].sum()
        wrong = sum(pairs[other, own].sum() for other in scored if other not in own)
        union = hit + wrong + pairs[own].sum() - hit
        found[category] = hit / union if union else np.nan
    return found


def sample_of(pred, ids, name='x'):
    sample = LaneSample(metainfo=dict(sample_id=name, original_shape=ids.shape))
    sample.full_labels, sample.pred_labels = torch.from_numpy(train_ids(ids, 'x')), torch.from_numpy(pred)
    return sample.to_dict()


def test_the_score_is_the_official_one():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 34, (3, 40, 60), np.uint8)
    ids[ids == 31] = 0  # no train
    pred = rng.integers(0, 16, ids.shape)  # neither trains nor motorcycles nor bicycles
    right = rng.random(ids.shape) < .5
    pred = np.where(right & (train_ids(ids, 'x') < 19), train_ids(ids, 'x'), pred)
    metric = CityscapesMetric()
    metric.process(None, [sample_of(p, t) for p, t in zip(pred, ids)])
    found = metric.compute_metrics(metric.results)
    expected = official(TRAIN_TO_ID[pred], ids)
    assert found['miou'] == pytest.approx(np.nanmean([expected[entry.name] for entry in CLASSES]))
    assert found['miou_categories'] == pytest.approx(np.nanmean([expected[name] for name in CATEGORIES]))
    for name, value in expected.items():
        assert np.isnan(value) and f'iou_{name}' not in found or found[f'iou_{name}'] == pytest.approx(value), name
    assert np.isnan(scores(np.zeros((19, 19), np.int64))['miou'])


def test_predictions_are_enlarged_to_the_nearest():
    metric = CityscapesMetric()
    metric.process(None, [sample_of(np.array([[0, 1], [1, 0]]), np.uint8([[7, 7, 8, 8]] * 2 + [[8, 8, 7, 7]] * 2))])
    assert metric.compute_metrics(metric.results)['miou'] == 1
    with pytest.raises(DataError, match='classes up to 19'):
        metric.process(None, [sample_of(np.array([[19]]), np.uint8([[7]]))])


# --- submission ---
def test_a_submission_holds_official_ids(tmp_path):
    writer = CityscapesSubmission(tmp_path)
    writer.process(None, [sample_of(np.array([[0, 18], [10, 13]]), np.zeros((4, 8), np.uint8), NAME)])
    writer.compute_metrics(writer.results)
    with zipfile.ZipFile(tmp_path / 'submission.zip') as archive:
        assert archive.namelist() == [f'{NAME}_pred_labelIds.png']
        image = cv2.imdecode(np.frombuffer(archive.read(archive.namelist()[0]), np.uint8), cv2.IMREAD_UNCHANGED)
    assert image.shape == (4, 8) and image[0, 0] == 7 and image[0, 7] == 33 and image[3, 0] == 23 and image[3, 7] == 26
    assert validate_cityscapes(tmp_path / 'submission.zip', [NAME], (4, 8)) == []
    assert 'missing' in validate_cityscapes(tmp_path / 'submission.zip', [NAME, 'other'], (4, 8))[0]
    assert '1024' in validate_cityscapes(tmp_path / 'submission.zip', [NAME])[0]


def test_wrong_predictions_are_refused(tmp_path):
    writer = CityscapesSubmission(tmp_path)
    with pytest.raises(DataError, match='class 19'):
        writer.process(None, [sample_of(np.array([[19]]), np.zeros((4, 8), np.uint8))])
    with pytest.raises(DataError, match='no pred_labels'):
        writer.process(None, [dict(sample_id='x', original_shape=(4, 8))])
