"""Frames from images and videos, and videos from frames."""
import contextlib
import subprocess
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from perception.common.formats.images import read_image
from perception.common.visual import video
from perception.common.visual.video import (
    check_film,
    find_files,
    frame_rate,
    is_film,
    is_video,
    read_frames,
    write_video,
)
from perception.utils import outputs
from perception.utils.errors import ConfigError, DataError
from perception.utils.outputs import LEDGER


def frame(shade, height=40, width=64):
    image = np.full((height, width, 3), 20, np.uint8)
    image[:, : width // 2, 0] = shade  # red at the left
    return image


@pytest.mark.parametrize('name', ['a.mp4', 'b: 50 %.mov', 'a.mkv', 'deep/er/a.avi'])
def test_a_video_keeps_size_number_rate_and_colours(tmp_path, name):
    frames = [frame(shade) for shade in (50, 150, 250)]
    assert write_video(tmp_path / name, iter(frames), 5) == tmp_path / name
    back = list(read_frames(tmp_path / name))
    assert [n for n, _ in back] == [f'{Path(name).stem}_{i:06d}' for i in range(3)]
    for (_, found), given in zip(back, frames):
        assert found.shape == given.shape
        assert abs(found[:, :28].mean((0, 1)) - given[0, 0]).max() < 25
    assert frame_rate(tmp_path / name) == 5
    assert {p.name for p in (tmp_path / name).parent.iterdir()} == {Path(name).name, LEDGER}


@pytest.mark.parametrize('name', ['a.mp4', 'a.m4v', 'a.mov', 'a.mkv'])
def test_a_film_is_what_browsers_play(tmp_path, name):
    path = write_video(tmp_path / name, [frame(50, 51, 81)] * 3)
    about = next(imageio_ffmpeg.read_frames(str(path)))
    assert about['codec'] == 'h264' and about['pix_fmt'].startswith('yuv420p') and about['size'] == (80, 50)
    data = path.read_bytes()
    assert name == 'a.mkv' or 0 < data.index(b'moov') < data.index(b'mdat')  # its index comes first


def test_frames_of_other_and_of_odd_sizes_fit_into_one_video(tmp_path):
    path = write_video(tmp_path / 'a.mp4', [frame(9, 41, 65), frame(9, 20, 30)])
    assert [f.shape for _, f in read_frames(path)] == [(40, 64, 3)] * 2


def test_a_gif_keeps_frames_and_rate_and_is_not_too_wide(tmp_path):
    frames = [frame(shade) for shade in (50, 150, 250)]
    path = write_video(tmp_path / 'deep/a.gif', iter(frames), 5)
    with Image.open(path) as film:
        assert (film.n_frames, film.size, film.info['loop']) == (3, (64, 40), 0)
        for i, given in enumerate(frames):
            film.seek(i)
            assert film.info['duration'] == 200
            assert (np.array(film.convert('RGB')) == given).all()
    write_video(path, [frame(9, 500, 1921)] * 2)
    with Image.open(path) as film:
        assert film.size == (960, 250)
    assert {p.name for p in path.parent.iterdir()} == {'a.gif', LEDGER}


def test_a_gif_keeps_the_colours_of_a_legend(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (300, 400, 3)).astype(np.uint8)  # more colours than a GIF has
    legend = rng.integers(0, 256, (20, 3)).astype(np.uint8)
    image[-12:, :240] = np.repeat(legend, 12, axis=0)
    with Image.open(write_video(tmp_path / 'a.gif', [image])) as film:
        back = np.array(film.convert('RGB'))
    assert np.abs(back[-12:, :240].astype(int) - image[-12:, :240]).max() <= 12  # Pillow looks coarsely
    assert np.abs(back.astype(int) - image).mean() < 30


def test_a_film_that_cannot_be_written_is_refused_before_its_frames_are_made(tmp_path):
    (tmp_path / 'file').write_text('')
    for path, fps, error, message in (
            ('a.mpg', 10, DataError, "ending '.mpg'"), ('a.webm', 10, DataError, "ending '.webm'"),
            ('a.mp4', 0, ConfigError, '0 frames per second, expected more than 0'),
            ('a.gif', float('nan'), ConfigError, 'nan frames per second'),
            ('file/a.mp4', 10, DataError, 'expected a folder that can be written')):
        with pytest.raises(error, match=message):
            check_film(tmp_path / path, fps)
        with pytest.raises(error, match=message):
            write_video(tmp_path / path, (pytest.fail('a frame was made') for _ in 'x'), fps)
    (tmp_path / 'a.mp4').mkdir()
    with pytest.raises(DataError, match=r'a\.mp4: a folder is there, expected a free name'):
        write_video(tmp_path / 'a.mp4', [frame(0)])
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a.mp4', 'file']


@pytest.mark.parametrize('name', ['a.mp4', 'a.mkv', 'a.avi', 'a.gif'])
def test_a_full_disk_leaves_no_film(tmp_path, name, monkeypatch):
    @contextlib.contextmanager
    def full(path, error):
        part = path.with_suffix('.part')
        part.symlink_to('/dev/full')  # where the film is written before it gets its name
        try:
            yield part
        except OSError as problem:
            raise error(f'{path}: {problem.strerror}, expected room') from problem
        finally:
            part.unlink()

    monkeypatch.setattr(outputs, 'atomic_path', full)
    with pytest.raises(DataError, match='expected .*room'):
        write_video(tmp_path / name, [frame(shade) for shade in range(0, 250, 10)])
    assert not list(tmp_path.iterdir())


def test_a_film_of_other_origin_is_never_replaced(tmp_path):
    path = write_video(tmp_path / 'a.mp4', [frame(9)])
    write_video(path, [frame(90)])
    path.write_bytes(b'mine')
    for call in (check_film, lambda path: write_video(path, (pytest.fail('a frame was made') for _ in 'x'))):
        with pytest.raises(DataError, match=r'a\.mp4: a file that no command of this project wrote is there'):
            call(path)
    assert path.read_bytes() == b'mine'


def test_what_is_meant_as_a_film(tmp_path):
    (tmp_path / 'a.mp4').mkdir()
    assert is_film('x.mpg') and is_film('x.GIF') and is_film('x.mp4')
    assert not is_film('pictures') and not is_film('run.v2') and not is_film(tmp_path / 'a.mp4')


def test_reads_an_image_and_a_folder_in_order(tmp_path):
    for i, name in enumerate(('b.png', 'a.PNG', 'c.jpg', 'notes.txt')):
        cv2.imwrite(str(tmp_path / 'x.png'), frame(40 * i)[..., ::-1])
        (tmp_path / 'x.png').rename(tmp_path / name)
    (tmp_path / '._a.png').write_bytes(b'of a Mac')
    assert [name for name, _ in read_frames(tmp_path)] == ['a', 'b', 'c']
    (name, image), = read_frames(tmp_path / 'b.png')
    assert name == 'b' and (image == frame(0)).all()
    assert (read_image(tmp_path / 'a.PNG') == frame(40)).all()


def test_frames_of_a_folder_come_in_the_order_of_their_numbers(tmp_path):
    for number in (1, 2, 9, 10, 100):
        Image.fromarray(np.full((20, 30, 3), number, np.uint8)).save(tmp_path / f'frame_{number}.png')
    names, frames = zip(*read_frames(tmp_path))
    assert names == ('frame_1', 'frame_2', 'frame_9', 'frame_10', 'frame_100')
    assert [int(frame[0, 0, 0]) for frame in frames] == [1, 2, 9, 10, 100]


def test_a_truncated_video_is_read_as_far_as_it_goes_and_said(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(video, 'print_log', lambda text, *_: said.append(text))
    path = write_video(tmp_path / 'a.avi', [frame(shade) for shade in range(40)])
    assert len(list(read_frames(path))) == 40 and not said
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    count = len(list(read_frames(path)))
    assert 0 < count < 38 and f'a.avi: {count} of the 40 frames' in said[0]


@pytest.mark.parametrize('turn', [0, 90, 180, 270])
def test_a_video_of_a_turned_phone_is_upright(tmp_path, turn):
    """The pixels stay as the sensor gave them, and a note in the file says how to show them."""
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:32, :48], picture[32:, 48:] = (250, 0, 0), (0, 0, 250)
    plain, turned = write_video(tmp_path / 'plain.mp4', [picture] * 3), tmp_path / 'turned.mp4'
    done = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), '-loglevel', 'error', '-display_rotation', str(turn), '-i',
                           str(plain), '-c', 'copy', str(turned)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f'this ffmpeg writes no such note: {done.stderr[:80]}')
    frames = [frame for _, frame in read_frames(turned)]
    expected = np.rot90(picture, turn // 90)
    assert len(frames) == 3 and frames[0].shape == expected.shape
    assert np.abs(frames[0].astype(int) - expected)[16::32, 24::24].max() < 30


def test_what_is_a_video_and_its_rate(tmp_path):
    assert is_video('a/b.MP4') and not is_video('a/b.png') and not is_video('a')
    assert frame_rate(tmp_path) == 10 and frame_rate('none.mp4', 3) == 3


def test_bad_input(tmp_path):
    (tmp_path / 'bad.png').write_bytes(b'nothing')
    (tmp_path / 'bad.mp4').write_bytes(b'nothing')
    with pytest.raises(DataError, match='7 bytes that are no image'):
        list(read_frames(tmp_path / 'bad.png'))
    with pytest.raises(DataError, match='no frame can be read from 7 bytes'):
        list(read_frames(tmp_path / 'bad.mp4'))
    with pytest.raises(DataError, match=r'none: no such file or folder, expected things'):
        find_files(tmp_path / 'none', ('.x',), 'things')
    with pytest.raises(DataError, match=r"ending '\.mpg', expected one of \.mp4"):
        write_video(tmp_path / 'a.mpg', [frame(0)])
    with pytest.raises(DataError, match='no frame came'):
        write_video(tmp_path / 'a.mp4', [])


def test_a_video_that_breaks_off_leaves_nothing(tmp_path):
    def frames():
        yield frame(0)
        raise RuntimeError('cut')

    with pytest.raises(RuntimeError, match='cut'):
        write_video(tmp_path / 'a.mp4', frames())
    assert not list(tmp_path.iterdir())
