"""BDD's videos and GPS, written here, and the driver's actions."""
import json
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest

from perception.common.samplers import EpochSampler
from perception.steering.datasets.bdd.reader import (
    ACTIONS,
    BDDDriving,
    Video,
    actions_of,
    rejection,
    velocities_of,
)
from perception.utils.errors import DataError

START = 1503000000000


def info(seconds=40, speed=10., course=90., **changes):
    """GPS once a second."""
    locations = [dict(timestamp=START + 300 + 1000 * k, speed=speed, course=course, latitude=0., longitude=0.,
                      accuracy=5.) for k in range(seconds)]
    return dict(dict(startTime=START, endTime=START + 1000 * seconds, locations=locations, gps=[]), **changes)


def video(path, frames, fps=15, size=(32, 16)):
    """Frame k has the grey 2 k."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = imageio_ffmpeg.write_frames(str(path), size, fps=fps, codec='libx264', pix_fmt_out='yuv420p', quality=None,
                                         macro_block_size=2, ffmpeg_log_level='quiet', output_params=['-crf', '5'])
    writer.send(None)
    for k in range(frames):
        writer.send(np.full((size[1], size[0], 3), min(2 * k, 255), np.uint8))
    writer.close()


def write(root, name='a', split='train', frames=92, fps=15, record=None):
    """A recording of 6 s, of which 4 are used: 20 frames at 3 Hz... of (4 * 15) // 5 = 12."""
    video(root / split / f'videos/{name}.mov', frames, fps)
    path = root / split / f'info/{name}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record or info(7)))
    return root


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('bdd')
    write(root)
    write(root, 'b', record=info(7, speed=0.))
    return write(root, 'c', 'val', 184, 30)


def clips(root, split='val', **options):
    return BDDDriving(root, split, **dict(dict(clip_length=5, seconds=4., input_size=(16, 32)), **options))


def greys(item):
    return item['inputs']['clip'].float().mean((1, 2, 3)).numpy()


def test_a_test_takes_every_fifth_frame_at_15_hz(root):
    val = clips(root)
    assert len(val) == 3 and sum(int(val[k]['data_samples'].scored.sum()) for k in range(3)) == 12
    item = val[1]
    # the video has 30 frames a second
    assert item['data_samples'].frames == ['000025', '000030', '000035', '000040', '000045']
    assert np.abs(greys(item) - 4 * np.arange(25, 50, 5)).max() < 6
    assert np.allclose(item['data_samples'].timestamps, np.arange(5, 10) / 3)
    assert item['data_samples'].actions.tolist() == [0] * 5 and np.allclose(item['data_samples'].targets[:, 2], 10)
    assert val[2]['data_samples'].scored.tolist() == [False] * 3 + [True] * 2


def test_a_training_takes_one_clip_a_video_from_anywhere(root):
    train = clips(root, 'train')
    assert len(train) == 2 and list(EpochSampler(train, False, 0))
    firsts = {int(train[epoch, 0]['data_samples'].frames[0]) for epoch in range(60)}
    assert min(firsts) < 5 and max(firsts) > 30 and {first % 5 for first in firsts} == set(range(5))
    item = train[7, 0]
    assert np.abs(greys(item) - 2 * np.array([int(f) for f in item['data_samples'].frames])).max() < 6
    assert train[0, 1]['data_samples'].actions.tolist() == [1] * 5  # who stands


def test_a_video_is_decoded_once(root, monkeypatch):
    from perception.steering.datasets.bdd import reader
    opened = []
    made = reader.Video.__init__
    monkeypatch.setattr(reader.Video, '__init__', lambda self, *a: opened.append(a) or made(self, *a))
    val = clips(root, memory=0)
    first = [val[k]['inputs']['clip'] for k in range(2)]
    assert len(opened) == 1
    kept = clips(root)
    assert all((kept[k]['inputs']['clip'] == first[k]).all() for k in range(2))
    count = len(opened)
    assert (kept[1]['inputs']['clip'] == first[1]).all() and len(opened) == count


def test_the_layout_of_bdd100k(root, tmp_path):
    (tmp_path / 'videos').mkdir()
    (tmp_path / 'info/100k').mkdir(parents=True)
    (tmp_path / 'videos/val').symlink_to(root / 'val/videos')
    (tmp_path / 'info/100k/val').symlink_to(root / 'val/info')
    assert len(clips(tmp_path)) == 3


# --- rules ---
def change(record, index, **values):
    record['locations'][index].update(values)
    return record


@pytest.mark.parametrize(('record', 'reason'), [
    (info(), ''), (info(locations=[]), 'no locations'), (dict(startTime=1, endTime=2), 'no locations'),
    (info(37), 'length'), (info(61), 'length'), (info(38), ''), (info(60), ''),
    (change(change(info(), 3, speed=-1), 9, course=-1), ''),
    (change(change(change(info(), 3, speed=-1), 9, course=-1), 11, speed=-1), 'more than 2'),
    (change(info(), 3, timestamp=START + 300 + 2000), 'equal'), (change(info(), 3, timestamp=START), 'order'),
    (change(info(), 3, timestamp=START + 300 + 3101), 'gap'), (change(info(), 3, timestamp=START + 300 + 3100), ''),
    (info(startTime=START - 1800), 'start or end'), (info(startTime=START - 1600), ''),
    (info(endTime=START + 42000), 'start or end'), (info(startTime=START + 3000, endTime=START + 41000), ''),
    (change(change(info(), 3, speed=-1), 4, speed=-1), 'in a row'),
    (change(change(info(), 38, course=-1), 39, course=-1), 'in a row'),
    (change(change(info(), 3, speed=-1), 4, course=-1), '')])
def test_recordings_are_left_out_as_officially(record, reason):
    found = rejection(record, 'a.json')
    assert (reason in found) if reason else not found


@pytest.mark.parametrize(('record', 'message'), [
    (change(info(), 3, speed='fast'), "speed of location 3 is 'fast'"), (info(startTime=None), 'startTime'),
    (change(info(), 3, course=float('nan')), 'course of location 3'), (info(locations=[3]), 'location 0 is 3'),
    (change(info(), 2, speed=900.), 'speed of location 2 is 900')])
def test_damaged_info_is_refused(record, message):
    with pytest.raises(DataError, match=f'a.json: {message}'):
        rejection(record, 'a.json')


def test_velocities_are_interpolated_as_vectors():
    record = change(info(speed=10., course=0.), 2, speed=20., course=90.)
    found = velocities_of(record, 60)
    times = np.arange(60) / 15
    for k in (0, 20, 31, 40):
        east = np.interp(times[k], [.3, 1.3, 2.3, 3.3], [0, 0, 20, 0])
        north = np.interp(times[k], [.3, 1.3, 2.3, 3.3], [10, 10, 0, 10])
        assert found[k] == pytest.approx([east, north], abs=1e-9)
    record = change(info(speed=10., course=0.), 2, speed=-1)
    record['locations'][3].update(speed=30.)
    record['locations'][-1].update(course=-1)
    assert velocities_of(record, 60)[30 + 4] == pytest.approx([0, 30], rel=.05)  # at 2.27 s that of the next fix
    assert np.isfinite(velocities_of(record, 600)).all()


def test_a_car_that_stands_has_no_course_but_its_speed():
    record = change(change(info(speed=10., course=0.), 2, speed=0., course=-1), 3, course=90.)
    assert velocities_of(record, 60)[35] == pytest.approx([.33, 0], abs=.02)  # 33 ms behind the fix of speed 0
    record = change(change(info(speed=10., course=0.), 2, course=-1, speed=7.), 3, speed=-1, course=90.)
    record['locations'][4].update(speed=4.)
    times = np.arange(60) / 15
    assert velocities_of(record, 60)[:, 0] == pytest.approx(np.interp(times, [1.3, 2.3, 3.3, 4.3], [0, 7, 4, 0]))


def slow_actions(velocities, rate):
    """The rules frame by frame."""
    found = []
    headings = [np.arctan2(east, north) if np.hypot(east, north) > 1e-6 else None for east, north in velocities]
    for k, (east, north) in enumerate(velocities):
        if k == 0:
            continue
        speed, before = np.hypot(east, north), np.hypot(*velocities[k - 1])
        unknown = None in headings[k - 1:k + 1]
        turned = 0 if unknown else np.degrees(np.angle(np.exp(1j * (headings[k] - headings[k - 1]))))
        if speed < 2.001 or unknown:
            found.append('slow_or_stop')
        elif abs(turned) >= 35:
            found.append('straight')
        elif turned > 1:
            found.append('turn_right')
        elif turned < -1:
            found.append('turn_left')
        else:
            found.append('slow_or_stop' if (speed - before) * rate < -1 else 'straight')
    return [ACTIONS.index(name) for name in [found[0], *found]]


def test_actions_follow_the_rules():
    rng = np.random.default_rng(0)
    for _ in range(30):
        heading, speed = np.cumsum(rng.normal(0, .03, 80)), np.abs(np.cumsum(rng.normal(0, .6, 80)))
        heading[30:] += rng.uniform(-3, 3)
        speed[:int(rng.integers(0, 5))] = speed[40:42] = 0
        velocities = np.stack([speed * np.sin(heading), speed * np.cos(heading)], 1)
        assert actions_of(velocities, 3.).tolist() == slow_actions(velocities, 3.)


@pytest.mark.parametrize(('east', 'action'), [(1., 'turn_right'), (-1., 'turn_left'), (.05, 'straight'),
                                              (100., 'straight')])
def test_a_clockwise_change_is_a_right_turn(east, action):
    assert ACTIONS[actions_of(np.array([[0., 10.], [east, 10.]]), 3.)[1]] == action


# --- damage ---
@pytest.mark.parametrize(('turn', 'shape'), [(0, (16, 32, 3)), (90, (32, 16, 3))])
def test_videos_of_turned_phones_are_upright(tmp_path, turn, shape):
    video(tmp_path / 'plain.mov', 3)
    done = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), '-loglevel', 'error', '-display_rotation', str(turn), '-i',
                           str(tmp_path / 'plain.mov'), '-c', 'copy', str(tmp_path / 'turned.mov')])
    if done.returncode:
        pytest.skip('this ffmpeg writes no note of a turn')
    assert Video(str(tmp_path / 'turned.mov')).read(0).shape == shape


def test_videos_that_end_early_or_are_none(root, tmp_path):
    write(tmp_path, 'x', 'val', frames=30)
    val = clips(tmp_path)
    with pytest.raises(DataError, match=r'x\.mov: ends after 30 frames \(2\.0 s\)'):
        val[1]
    (tmp_path / 'val/videos/x.mov').write_bytes(b'no video at all')
    with pytest.raises(DataError, match=r'x\.mov: 15 bytes'):
        clips(tmp_path)[0]


def test_what_is_left_out_is_told(tmp_path, root, caplog):
    write(tmp_path, 'good', 'val', 92)
    for name, record in (('b', dict(startTime=1)), ('c', dict(startTime=1)), ('d', info(40))):
        write(tmp_path, name, 'val', 2, record=record)
    (tmp_path / 'val/videos/e.mov').write_bytes(b'')
    assert [r.name for r in clips(tmp_path, seconds=4.).recordings] == ['d', 'good']
    (tmp_path / 'val/info/good.json').write_text('{"startTime": 1')
    with pytest.raises(DataError, match=r'good\.json: no valid JSON'):
        clips(tmp_path)
    for name in ('good', 'd'):
        (tmp_path / f'val/info/{name}.json').write_text('{}')
    with pytest.raises(DataError, match=r'b\.json: no locations, and none of 5 videos.*4 with no locations'):
        clips(tmp_path)
    with pytest.raises(DataError, match='expected videos and info of the test split'):
        clips(tmp_path, 'test')
