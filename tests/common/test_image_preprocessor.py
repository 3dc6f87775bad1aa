import numpy as np
import pytest
import torch

from perception.common.image_preprocessor import ImagePreprocessor
from perception.common.structures import LaneSample
from perception.utils.errors import ConfigError, DataError

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here'))]


def batch(sizes=((6, 8), (6, 8)), labelled=True, num_lanes=4):
    images, samples = [], []
    for i, size in enumerate(sizes):
        rng = np.random.default_rng(i)
        images.append(torch.from_numpy(rng.integers(0, 256, (3, *size), np.uint8)))
        sample = LaneSample(metainfo=dict(sample_id=f'a/{i}', image_path=f'/data/a/{i}.jpg'))
        if labelled:
            sample.labels = torch.from_numpy(rng.integers(0, 5, size))
            sample.exist = torch.ones(num_lanes)
        sample.lanes = [np.zeros((2, 2))]
        samples.append(sample)
    return dict(inputs=dict(image=images), data_samples=samples)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('bgr', [False, True])
def test_images_are_normalised_per_channel(bgr, device):
    mean, std = (10.0, 20.0, 30.0), (1.0, 2.0, 4.0)
    data = batch()
    images = ImagePreprocessor(mean, std, bgr=bgr).to(device)(data)['inputs']['images']
    assert images.dtype == torch.float32 and images.shape == (2, 3, 6, 8) and images.device.type == device
    for i in range(2):
        for channel in range(3):
            source = data['inputs']['image'][i][2 - channel if bgr else channel].double()
            torch.testing.assert_close(images[i, channel].double().cpu(), (source - mean[channel]) / std[channel])


def test_labels_are_stacked_where_all_samples_have_them():
    data = batch()
    result = ImagePreprocessor()(data)
    assert torch.equal(result['inputs']['labels'], torch.stack([s.labels for s in data['data_samples']]))
    assert result['inputs']['labels'].dtype == torch.int64 and result['inputs']['exist'].shape == (2, 4)
    assert result['data_samples'][1].lanes[0].shape == (2, 2)
    assert set(ImagePreprocessor()(batch(labelled=False))['inputs']) == {'images'}
    mixed = batch()
    del mixed['data_samples'][0].labels
    assert set(ImagePreprocessor()(mixed)['inputs']) == {'images', 'exist'}
    alone = ImagePreprocessor()(dict(inputs=dict(image=data['inputs']['image'])))
    assert alone['data_samples'] is None and set(alone['inputs']) == {'images'}


def test_normalising_alone_equals_a_batch():
    data, preprocessor = batch(), ImagePreprocessor(bgr=True)
    images = preprocessor(data)['inputs']['images']
    assert torch.equal(preprocessor.normalise(torch.stack(data['inputs']['image'])), images)


def test_bad_batches_are_refused():
    with pytest.raises(DataError, match=r'image /data/a/1\.jpg: 6 x 9 pixels beside image /data/a/0\.jpg of 6 x 8'):
        ImagePreprocessor()(batch(sizes=((6, 8), (6, 9))))
    data = batch()
    data['data_samples'][1].labels = torch.zeros(5, 8, dtype=torch.int64)
    with pytest.raises(DataError, match=r'a/1\.jpg: labels of shape \(5, 8\), expected \(6, 8\)'):
        ImagePreprocessor()(data)
    data = batch()
    data['data_samples'][1].exist = torch.ones(6)
    with pytest.raises(DataError, match=r'a/1\.jpg: exist of shape \(6,\), expected \(4,\)'):
        ImagePreprocessor()(data)
    data = batch()
    data['inputs']['image'][0] = data['inputs']['image'][0].float()
    with pytest.raises(DataError, match=r'a/0\.jpg: torch\.float32 of shape \(3, 6, 8\), expected uint8'):
        ImagePreprocessor()(data)
    with pytest.raises(DataError, match='image 0 of the batch: .*expected uint8'):
        ImagePreprocessor()(dict(inputs=dict(image=[torch.zeros(1, 4, 4, dtype=torch.uint8)])))
    with pytest.raises(DataError, match='an empty batch'):
        ImagePreprocessor()(dict(inputs=dict(image=[])))
    with pytest.raises(ConfigError, match='expected three numbers each'):
        ImagePreprocessor(mean=(1, 2))
    with pytest.raises(ConfigError, match='std above 0'):
        ImagePreprocessor(std=(1, 0, 1))
