"""What all readers of road images share, on tiny folders in the official layouts."""
import shutil

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader

from perception.common.image_preprocessor import ImagePreprocessor
from perception.common.samplers import EpochSampler
from perception.lanes.datasets.apolloscape.reader import ApolloScapeLaneMark
from perception.lanes.datasets.bdd100k.reader import BDD100K
from perception.lanes.datasets.culane.reader import CATEGORIES, CULane
from perception.lanes.datasets.llamas.reader import LLAMAS
from perception.lanes.datasets.tusimple.reader import TuSimple
from perception.lanes.transforms import ColorJitter, RandomCrop, RandomImageRotate, RandomResize
from perception.utils.errors import ConfigError, DataError

PIPELINE = [dict(type=RandomResize, height=(28, 36), width=(60, 70)), dict(type=RandomImageRotate, max_degrees=2),
            dict(type=RandomCrop, size=(32, 64)), dict(type=ColorJitter)]
SETS = {  # name -> class, arguments for the tiny images, samples of train, val and test
    'culane': (CULane, dict(crop_top=10), (2, 1, 2)),
    'tusimple': (TuSimple, {}, (3, 1, 1)),
    'bdd100k': (BDD100K, {}, (6, 1, 1)),
    'llamas': (LLAMAS, dict(crop_top=300), (1, 1, 1)),
    'apolloscape': (ApolloScapeLaneMark, dict(crop_top=30), (2, 1, 1)),
}


def make(official, name, split='train', root=None, **kwargs):
    cls, arguments, _ = SETS[name]
    return cls(official(name) if root is None else root, split, **dict(dict(arguments, input_size=(32, 64)), **kwargs))


@pytest.mark.parametrize('name', SETS)
def test_samples_of_each_split(official, name):
    cls, arguments, sizes = SETS[name]
    root = official(name)
    for split, size in zip(('train', 'val', 'test'), sizes):
        dataset = make(official, name, split, root)
        assert len(dataset) == size and dataset.official_size == cls.OFFICIAL_SIZES[split]
        ids = set()
        for i in range(size):
            item = dataset[i]
            image, sample = item['inputs']['image'], item['data_samples']
            assert image.dtype == torch.uint8 and image.shape == (3, 32, 64) and sample.input_shape == (32, 64)
            assert sample.image_path.endswith(('.jpg', '.png')) and sample.crop_top == arguments.get('crop_top', 0)
            pixels = cv2.imread(sample.image_path)[sample.crop_top:, :, ::-1]
            assert sample.original_shape == cv2.imread(sample.image_path).shape[:2]
            np.testing.assert_array_equal(image.permute(1, 2, 0), cv2.resize(pixels, (64, 32)))
            if 'labels' in sample:
                assert sample.labels.dtype == torch.int64 and sample.labels.shape == (32, 64)
                assert sample.labels.min() >= 0 and sample.labels.max() < len(dataset.metainfo['classes'])
            if 'exist' in sample:
                present = [slot for slot in range(1, len(sample.exist) + 1) if sample.exist[slot - 1]]
                assert set(sample.labels.unique().tolist()) == {0, *present}
            if 'full_labels' in sample:
                assert sample.full_labels.dtype == torch.uint8 and sample.full_labels.shape == sample.original_shape
            for lane in sample.get('lanes') or []:
                assert lane.dtype == np.float64 and lane.ndim == 2 and lane.shape[1] == 2
                assert len(lane) < 2 or lane[0, 1] >= lane[-1, 1]
            ids.add(sample.sample_id)
        assert len(ids) == size
        assert ('labels' in sample) == (split != 'test' or name == 'bdd100k')
        assert len(dataset.metainfo['classes']) == len(dataset.metainfo['palette'])


@pytest.mark.parametrize('name', SETS)
def test_augmentation_depends_on_seed_epoch_and_index_alone(official, name):
    root = official(name)
    dataset = make(official, name, root=root, pipeline=PIPELINE, seed=1)
    first = dataset[3, 0]
    _ = dataset[0], dataset[5, 0]
    again = make(official, name, root=root, pipeline=PIPELINE, seed=1)[3, 0]
    assert torch.equal(again['inputs']['image'], first['inputs']['image'])
    assert torch.equal(again['data_samples'].labels, first['data_samples'].labels)
    other = make(official, name, root=root, pipeline=PIPELINE, seed=2)[3, 0]
    for item in (dataset[4, 0], other):
        assert not torch.equal(item['inputs']['image'], first['inputs']['image'])


def test_a_data_set_is_a_sequence(official):
    dataset = make(official, 'tusimple', pipeline=PIPELINE)
    last = dataset[len(dataset) - 1]
    assert torch.equal(dataset[-1]['inputs']['image'], last['inputs']['image']) and len([*dataset]) == len(dataset)
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_batches_are_the_same_for_any_number_of_workers(official):
    dataset = make(official, 'tusimple', pipeline=PIPELINE)

    def batches(workers):
        sampler = EpochSampler(dataset, seed=0)
        sampler.set_epoch(2)
        return list(DataLoader(dataset, 2, sampler=sampler, num_workers=workers, collate_fn=pseudo_collate))

    for one, two in zip(batches(0), batches(2)):
        one, two = ImagePreprocessor()(one), ImagePreprocessor()(two)
        assert [s.sample_id for s in one['data_samples']] == [s.sample_id for s in two['data_samples']]
        for key in ('images', 'labels', 'exist'):
            assert torch.equal(one['inputs'][key], two['inputs'][key])


@pytest.mark.parametrize('name', SETS)
@pytest.mark.parametrize('split', ['train', 'val', 'test'])
def test_missing_data_root_names_folder_download_and_mini(tmp_path, name, split):
    with pytest.raises(DataError, match=r'nowhere: no .*nowhere.*official layout .*https?://.*PERCEPTION_DATA.*--mini'):
        SETS[name][0](tmp_path / 'nowhere', split)


@pytest.mark.parametrize('name', SETS)
def test_arguments_are_checked(tmp_path, name):
    cls = SETS[name][0]
    with pytest.raises(ConfigError, match="split='valid', expected one of train, val, test. Did you mean val"):
        cls(tmp_path, 'valid')
    with pytest.raises(ConfigError, match=r'input_size=\(5, 5, 5\), expected \(rows, columns\)'):
        cls(tmp_path, input_size=(5, 5, 5))
    with pytest.raises(ConfigError, match='input_size=0, expected a number above 0'):
        cls(tmp_path, input_size=(0, 5))
    with pytest.raises(ConfigError, match='crop_top=-1, expected 0'):
        cls(tmp_path, crop_top=-1)


@pytest.mark.parametrize('name', SETS)
def test_images_that_are_missing_or_damaged(official, name):
    root = official(name)
    dataset = make(official, name, 'val', root)
    path = dataset.samples[0][1]
    with open(path, 'rb') as file:
        data = file.read()
    for damaged, message in ((data[:len(data) // 2], 'without its end, expected a whole image'),
                             (b'', '0 bytes that are no image'), (b'no image' * 20, '160 bytes that are no image')):
        with open(path, 'wb') as file:
            file.write(damaged)
        with pytest.raises(DataError, match=message):
            dataset[0]
    shutil.move(path, path + '.gone')
    with pytest.raises(DataError, match='not readable.*expected an image'):
        dataset[0]
    with pytest.raises(DataError, match='expected|no '):
        make(official, name, 'val', root)


def test_data_root_follows_the_environment(official, monkeypatch):
    root = official('culane')
    monkeypatch.setenv('PERCEPTION_DATA', str(root.parent))
    assert len(CULane('data/culane', 'val')) == 1


def test_a_cut_that_leaves_no_rows_is_refused(official):
    with pytest.raises(DataError, match=r'59 rows, expected more than crop_top=59.*590 x 1640 pixels'):
        make(official, 'culane', crop_top=59)[0]


def test_without_input_size_the_cut_image_is_kept(official):
    item = make(official, 'culane', input_size=None)[0]
    assert item['inputs']['image'].shape == (3, 49, 164) and item['data_samples'].labels.shape == (49, 164)


@pytest.mark.parametrize('name', SETS)
def test_simulated_data_are_read_like_real_ones(request, name):
    """At the official image size; every labelled split has lanes that the labels show, and batches can be made."""
    root, cls = request.getfixturevalue(f'mini_{name}'), SETS[name][0]
    for split in ('train', 'val', 'test'):
        dataset = cls(root, split, input_size=(96, 160), pipeline=PIPELINE[1:2] if split == 'train' else ())
        items, foreground = [dataset[i] for i in range(len(dataset))], 0
        for item in items:
            sample = item['data_samples']
            assert sample.original_shape == cls.IMAGE_SIZE
            labels = sample.get('labels', torch.zeros(1))
            assert set(labels.unique().tolist()) <= {*range(len(dataset.metainfo['classes'])), 255}
            foreground += int(((labels > 0) & (labels != 255)).sum())
            lanes = [lane for lane in sample.get('lanes') or [] if len(lane)]
            if 'exist' in sample and name != 'tusimple':  # short lanes of TuSimple get no slot
                assert len(lanes) == sample.exist.sum()
            for lane in lanes:
                assert (np.diff(lane[:, 1]) <= 0).all() and lane[:, 0].max() > -cls.IMAGE_SIZE[1]
        assert (foreground > 0) == ('labels' in items[0]['data_samples'])
        batch = ImagePreprocessor()(pseudo_collate(items))
        assert batch['inputs']['images'].shape == (len(items), 3, 96, 160)
    if name == 'culane':
        assert sorted(item['data_samples'].category for item in items) == sorted(CATEGORIES)
        assert all(len(item['data_samples'].lanes) == 0 for item in items if item['data_samples'].category == 'cross')
