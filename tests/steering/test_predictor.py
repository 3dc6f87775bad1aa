"""The predictor: frames in order cost one frame's work and give what a clip gives; images, videos, cameras, clips."""
import json

import cv2
import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from perception.common.visual.video import write_video
from perception.steering.datasets.base import TARGETS
from perception.steering.datasets.bdd.reader import BDDDriving
from perception.steering.datasets.cityscapes.reader import Cityscapes
from perception.steering.datasets.udacity.reader import UdacityCh2
from perception.steering.models.fm_net import ActionNet
from perception.steering.predictor import SteeringPredictor, VideoFrame
from perception.utils.errors import ConfigError, DataError

DATA = dict(type=object)


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)


@pytest.fixture
def predictor(tiny_net):
    net = tiny_net(trunk=dict(causal=True), target_mean=[1, 2, 3], target_std=[9, 5, 6])
    return SteeringPredictor(net.eval(), DATA)


def answers(predictor, sources):
    return torch.cat([sample.pred_targets for sample in map(predictor, sources)])


def test_a_video_gives_what_one_long_clip_gives(predictor, frames):
    whole = predictor(frames).pred_targets
    assert whole.shape == (40, 3) and whole.std(0).min() > 0
    assert torch.allclose(answers(predictor, frames), whole, atol=1e-5)
    predictor.restart()
    batches = [predictor.predict(frames[i:i + 8]) for i in range(0, 40, 8)]
    assert torch.allclose(torch.cat([s.pred_targets for batch in batches for s in batch]), whole, atol=1e-5)


def test_a_frame_costs_one_frames_work(tiny_net, frames):
    costs = {}
    for causal in (True, False):
        predictor = SteeringPredictor(tiny_net(trunk=dict(causal=causal)).eval().requires_grad_(False), DATA)
        for frame in frames[:12]:
            with FlopCounterMode(display=False) as counter:
                predictor(frame)
        costs[causal] = counter.get_total_flops()
    assert 9.5 < costs[False] / costs[True] < 10.5


def test_a_net_that_sees_ahead_is_shown_the_last_frames(tiny_net, frames):
    predictor = SteeringPredictor(tiny_net().eval(), DATA, window=4)
    found = answers(predictor, frames[:7])
    assert torch.allclose(found[6], predictor(frames[3:7]).pred_targets[-1], atol=1e-5)
    assert torch.allclose(found[1], predictor(frames[:2]).pred_targets[-1], atol=1e-5)


@pytest.mark.parametrize('causal', [True, False])
def test_frames_that_come_faster_are_seen_as_far_apart_as_those_that_it_learned_from(tiny_net, frames, causal):
    net = tiny_net(trunk=dict(causal=causal)).eval()
    found = answers(SteeringPredictor(net, DATA, window=4, every=3), frames[:12])
    assert torch.allclose(found[11], SteeringPredictor(net, DATA)(frames[2:12:3]).pred_targets[-1], atol=1e-5)
    assert torch.allclose(found[4], SteeringPredictor(net, DATA)(frames[1:5:3]).pred_targets[-1], atol=1e-5)
    assert torch.allclose(found[2], SteeringPredictor(net, DATA)(frames[2:3]).pred_targets[-1], atol=1e-5)


@pytest.mark.parametrize('every', [1, 2])
def test_a_video_is_answered_in_the_clips_that_a_test_scores(tiny_net, frames, tmp_path, every):
    """Each clip by itself, the last one moved back; frames as they come only of a capture device, or with `live`."""
    net, data, frames = tiny_net().eval(), dict(DATA, clip_length=4), frames.repeat(2, 1).repeat(2, 2)
    for i, frame in enumerate(frames[:11 * every]):
        cv2.imwrite(str(tmp_path / f'{i:03d}.png'), frame[..., ::-1])
    clips = SteeringPredictor(net, data)
    expected = np.empty((11 * every, 3), np.float32)
    for phase in range(every):  # frames of one phase are the recording that the net would be tested on
        for start, new in ((0, 0), (4, 4), (7, 8)):
            rows = clips(frames[phase:11 * every:every][start:start + 4]).pred_targets[new - start:]
            expected[phase::every][new:new + len(rows)] = rows
    for batch in (1, 3):
        found = list(SteeringPredictor(net, data, every=every).results(tmp_path, batch=batch))
        assert np.allclose(torch.cat([one.sample.pred_targets for one in found]), expected, atol=1e-5)
    assert found[5].source.image.shape == (64, 64, 3)
    assert {image.shape for image in found[5].source.clips} == {(32, 32, 3)}  # not gigabytes
    earlier = SteeringPredictor(net, data)  # as --against has it: it sees the frames of another predictor
    assert np.allclose(earlier(found[5].source).pred_targets, expected[5], atol=1e-5)
    live = SteeringPredictor(net, data, every=every, live=True)
    came = torch.cat([one.sample.pred_targets for one in live.results(tmp_path)])
    assert torch.allclose(came, answers(SteeringPredictor(net, data, every=every), frames[:11 * every]), atol=1e-5)
    assert not np.allclose(came, expected, atol=1e-3)


@pytest.mark.parametrize('live', [False, True])
def test_frames_pass_the_pipeline_of_a_test(tiny_net, frames, tmp_path, live):
    def darker(sample):
        return dict(sample, clip=sample['clip'] // 2)

    net, data = tiny_net().eval(), dict(DATA, clip_length=4)
    for i, frame in enumerate(frames[:6]):
        cv2.imwrite(str(tmp_path / f'{i:03d}.png'), frame[..., ::-1])
    found = SteeringPredictor(net, dict(data, pipeline=[darker]), live=live).results(tmp_path)
    dark = torch.cat([one.sample.pred_targets for one in found])
    for i, frame in enumerate(frames[:6]):
        cv2.imwrite(str(tmp_path / f'{i:03d}.png'), frame[..., ::-1] // 2)
    expected = torch.cat([one.sample.pred_targets for one in SteeringPredictor(net, data, live=live).results(tmp_path)])
    assert torch.equal(dark, expected)


@pytest.mark.parametrize('live', [False, True])
def test_images_of_a_folder_that_cannot_be_read_are_left_out(tiny_net, frames, tmp_path, live):
    for i, frame in enumerate(frames[:9]):
        cv2.imwrite(str(tmp_path / f'{i:03d}.png'), frame[..., ::-1])
    predictor = SteeringPredictor(tiny_net().eval(), dict(DATA, clip_length=4), live=live)
    expected = [one.sample.pred_targets for one in predictor.results(tmp_path)]
    for name in ('000_.png', '003_.png', '008_.png'):
        (tmp_path / name).write_bytes(b'no image')
    found = list(predictor.results(tmp_path, batch=3))
    assert [one.name for one in found if one.error] == ['000_', '003_', '008_']
    assert torch.equal(torch.cat([one.sample.pred_targets for one in found if not one.error]), torch.cat(expected))
    with pytest.raises(DataError, match='bytes that are no image'):
        list(predictor.results(tmp_path / '003_.png'))


@pytest.mark.parametrize(('kind', 'fps', 'every'), [
    (BDDDriving, 30, 10), (BDDDriving, 15, 5), (BDDDriving, 2, 1), (UdacityCh2, 20, 1), (UdacityCh2, 60, 3),
    (Cityscapes, 30, 1)])
def test_a_video_is_seen_at_the_rate_of_the_data_set(predictor, frames, tmp_path, kind, fps, every):
    predictor.data = dict(type=kind)
    assert sum(1 for _ in predictor.sources(write_video(tmp_path / 'drive.mp4', frames[:5], fps))) == 5
    assert predictor.stream.every == every
    predictor.every = 2
    next(predictor.sources(tmp_path / 'drive.mp4'))
    assert predictor.stream.every == 2


def test_folders_videos_and_clips(predictor, frames, tmp_path):
    folders = [tmp_path / name for name in 'ab']
    for folder in folders:
        folder.mkdir()
        for i, frame in enumerate(frames[:5]):
            cv2.imwrite(str(folder / f'{i:03d}.png'), frame[..., ::-1])
    whole = predictor(frames[:5]).pred_targets
    for _ in range(2):  # it starts anew with each folder
        for folder in folders:
            found = list(predictor.results(folder, batch=2))
            assert torch.allclose(torch.cat([one.sample.pred_targets for one in found]), whole, atol=1e-5)
    assert [one.name for one in found] == [f'{i:03d}' for i in range(5)]
    paths = sorted(folders[0].iterdir())
    predictor.restart()
    assert torch.allclose(answers(predictor, paths), whole, atol=1e-5)
    assert torch.allclose(answers(predictor, [folders[1] / path.name for path in paths]), whole, atol=1e-5)
    assert torch.allclose(predictor(paths).pred_targets, whole, atol=1e-5)
    film = write_video(tmp_path / 'drive.mp4', frames[:5], 10)
    pictures = list(predictor.pictures(film))
    assert [name for name, _ in pictures] == [f'drive_{i:06d}' for i in range(5)]


def test_a_capture_device(predictor, frames, monkeypatch):
    class Camera:
        left = 4

        def __init__(self, device):
            assert device == 7

        def read(self):
            Camera.left -= 1
            return (True, frames[3 - Camera.left][..., ::-1]) if Camera.left >= 0 else (False, None)

        def release(self):
            Camera.left = 4
    monkeypatch.setattr(cv2, 'VideoCapture', Camera)
    found = list(predictor.results('7'))
    assert [one.name for one in found] == [f'camera7_{i:06d}' for i in range(4)]
    whole = predictor(frames[:4]).pred_targets
    assert torch.allclose(torch.cat([one.sample.pred_targets for one in found]), whole, atol=1e-5)
    few = SteeringPredictor(predictor.model, DATA, frames=2)
    assert len(list(few.results('/dev/video7'))) == 2
    Camera.left = 0
    with pytest.raises(DataError, match='no frame came'):
        list(few.sources('7'))


def test_a_bad_frame_leaves_the_video_as_it_was(predictor, frames):
    whole = predictor(frames[:2]).pred_targets
    predictor(frames[0])
    for wrong in (frames[1].astype(float), frames[1][..., 0]):
        with pytest.raises(DataError, match='expected uint8'):
            predictor.predict([frames[1], wrong])
    assert torch.allclose(predictor(frames[1]).pred_targets[0], whole[1], atol=1e-5)
    with pytest.raises(ConfigError, match='window=-1'):
        SteeringPredictor(None, DATA, window=-1)


def test_frames_of_another_size_are_resized(predictor, frames):
    large = cv2.resize(frames[0], (96, 64), interpolation=cv2.INTER_NEAREST)
    assert predictor(large).pred_targets.shape == (1, 3)


@pytest.mark.parametrize('kind', ['targets', 'actions'])
def test_pictures_and_files(tiny_net, frames, tmp_path, kind):
    net = tiny_net(kind=ActionNet) if kind == 'actions' else tiny_net(target_mean=[0, 0, 9], target_std=[9, 1, 1])
    predictor = SteeringPredictor(net.eval(), dict(type=BDDDriving if kind == 'actions' else object))
    large = np.full((240, 320, 3), 90, np.uint8)
    sample = predictor(large)
    rows = sample.get(f'pred_{kind}').numpy()
    drawn = predictor.draw(large, sample, None if kind == 'actions' else -20.0, 'frame')
    assert drawn.shape[1:] == (960, 3) and drawn.shape[0] > 720 + 190 and drawn[:720].std() > 0
    path = predictor.save('json', tmp_path, 'a', large, sample)
    (written,) = json.loads(path.read_text())
    assert list(written) == list(TARGETS if kind == 'targets' else BDDDriving.METAINFO['classes'])  # as scores have it
    assert list(written.values()) == pytest.approx(rows[0].tolist(), abs=1e-4)
    assert np.array_equal(np.load(predictor.save('npy', tmp_path, 'a', large, sample)), rows)
    with pytest.raises(ConfigError, match='csv'):
        predictor.save('csv', tmp_path, 'a', large, sample)


def test_frames_of_a_video_make_a_curve(tiny_net):
    predictor = SteeringPredictor(tiny_net().eval(), dict(DATA, type=UdacityCh2))
    frames = [VideoFrame('a', k, np.full((48, 64, 3), 90, np.uint8)) for k in range(3)]
    sizes = {predictor.draw(frame, predictor(frame), title='x').shape for frame in frames}
    assert sizes == {predictor.draw(frames[0].image, predictor(frames[0].image)).shape}
    assert [moment.time for moment in predictor._past] == [0, .1, .2]
    predictor.restart()
    assert not predictor._past
    predictor.draw(VideoFrame('a', 0, frames[0].image, 20.0), title='x')
    predictor.draw(VideoFrame('a', 1, frames[0].image, 20.0), title='x')
    assert [moment.time for moment in predictor._past] == [0, .05]
