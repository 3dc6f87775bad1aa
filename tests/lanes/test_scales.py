"""Several scales in windows: what is added, where windows overlap, and what the released code leaves out."""
import numpy as np
import pytest
import torch
from torch.nn import functional

from perception.apis.config import load_config
from perception.apis.inference import load
from perception.apis.test import test as evaluate
from perception.common.image_preprocessor import ImagePreprocessor
from perception.common.structures import LaneSample
from perception.lanes.models.base import LaneNet
from perception.lanes.models.erfnet import ERFNet
from perception.lanes.scales import ScaledWindows
from perception.registry import MODELS
from perception.utils.errors import ConfigError

SIZES, WINDOW = ((24, 40), (32, 56), (20, 36)), (16, 32)


class Pixels(LaneNet):
    """Says of each pixel what that pixel alone tells it, and counts its calls."""

    def __init__(self, **kwargs) -> None:
        super().__init__(ImagePreprocessor((0, 0, 0), (1, 1, 1)), num_classes=3, num_lanes=0, **kwargs)
        self.seen: list[tuple[int, ...]] = []

    def compute(self, images):
        self.seen.append(tuple(images.shape))
        return dict(logits=images / 255)


class Places(Pixels):
    """Says where in its window a pixel lies."""

    def compute(self, images):
        row = torch.arange(images.shape[2]).view(-1, 1).expand(images.shape[2:])
        return dict(logits=row.expand(len(images), 3, *images.shape[2:]).float())


def image(size=(60, 100), seed=0):
    small = torch.from_numpy(np.random.default_rng(seed).integers(0, 255, (1, 3, 2, 2)))
    return functional.interpolate(small.float(), size, mode='bilinear')[0].to(torch.uint8)


def test_what_each_pixel_tells_is_the_mean_of_all_scales():
    net, pixels = Pixels(), image()
    scores = {mode: ScaledWindows(net, mode, SIZES, WINDOW).scores(pixels) for mode in
              ('windows', 'scales', 'scales_released')}
    assert set(net.seen) == {(4, 3, *WINDOW)} and len(net.seen) == 1 + 3 + 2
    assert all(score.shape == (3, *SIZES[0]) for score in scores.values())
    whole = functional.interpolate(pixels[None].float(), SIZES[0], mode='bilinear')[0] / 255
    for score in scores.values():  # each scale shows the same, however the windows overlap
        torch.testing.assert_close(score, whole, atol=.02, rtol=0)
    torch.testing.assert_close(3 * scores['scales'], scores['windows'] + 2 * scores['scales_released'])


def test_windows_lie_at_the_corners_and_are_averaged_where_they_overlap():
    rows = ScaledWindows(Places(), 'windows', SIZES, WINDOW).scores(image())[0, :, 0].tolist()
    assert rows == [*range(8), *((row + row - 8) / 2 for row in range(8, 16)), *range(8, 16)]


def test_a_window_as_large_as_the_image_is_the_plain_prediction():
    torch.manual_seed(0)
    net = ERFNet(ImagePreprocessor(), num_classes=4, num_lanes=0, input_size=(16, 32), iou_weight=0).eval()
    data = dict(inputs=dict(image=[image((16, 32))]), data_samples=[LaneSample()])
    plain = net.test_step(data)[0]
    sample = ScaledWindows(net, 'windows', ((16, 32), (24, 40)), (16, 32)).test_step(
        dict(data, data_samples=[LaneSample()]))[0]
    torch.testing.assert_close(sample.lane_probs, plain.lane_probs)
    assert (sample.pred_labels == plain.pred_labels).all()


def test_what_cannot_be_is_refused():
    for changes, message in ((dict(mode='flip'), 'mode'), (dict(window=(8, 32)), 'between one and two windows'),
                             (dict(window=(30, 32)), 'between one and two windows'), (dict(sizes=()), 'two sizes'),
                             (dict(model=ERFNet(num_lanes=4, input_size=(16, 32))), 'num_lanes=4')):
        with pytest.raises(ConfigError, match=message):
            ScaledWindows(**{**dict(model=Pixels(), mode='scales', sizes=SIZES, window=WINDOW), **changes})


def test_apolloscapes_nets_are_tested_so(official, root, tmp_path):
    """The data set gives images at their full size then, which are scaled once."""
    config, data = root / 'configs/lanes/erfnet_apolloscape.py', official('apolloscape')
    torch.save(dict(state_dict=MODELS.build(load_config(config, True).model).state_dict()), tmp_path / 'model.pth')
    options = {'work_dir': str(tmp_path / 'w'), 'test_dataloader.dataset.data_root': str(data),
               'test_dataloader.dataset.crop_top': 50}
    scores = {tta: evaluate(config, tmp_path / 'model.pth', True, tta=tta, options=options)
              for tta in (None, 'scales', 'scales_released')}
    assert all(0 <= result['miou'] <= 1 for result in scores.values())
    predictor = load(config, tmp_path / 'model.pth', mini=True, tta='scales', options=options)
    assert predictor.data['input_size'] is None
    sample = predictor(next(data.glob('ColorImage_road04/**/*.jpg')))
    assert sample.pred_labels.shape == (96, 320) and sample.original_shape == (80, 96)
    assert predictor.draw(np.zeros((80, 96, 3), np.uint8), sample).ndim == 3
    seen = []
    predictor.model.scores = lambda image: seen.append(tuple(image.shape)) or torch.zeros(37, 96, 320)
    predictor(next(data.glob('ColorImage_road04/**/*.jpg')))
    assert seen == [(3, 2660, 3384)]
    with pytest.raises(ConfigError, match='mode'):
        evaluate(config, tmp_path / 'model.pth', True, tta='flip', options=options)
