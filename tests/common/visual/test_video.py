"""Frames from images and videos, and videos from frames."""
import cv2
import numpy as np
import pytest

from perception.common.formats.images import read_image
from perception.common.visual.video import find_files, frame_rate, is_video, read_frames, write_video
from perception.utils.errors import DataError


def frame(shade, height=40, width=64):
    image = np.full((height, width, 3), 20, np.uint8)
    image[:, : width // 2, 0] = shade  # red at the left
    return image


@pytest.mark.parametrize('name', ['a.mp4', 'deep/er/a.avi'])
def test_a_video_keeps_size_number_rate_and_colours(tmp_path, name):
    frames = [frame(shade) for shade in (50, 150, 250)]
    assert write_video(tmp_path / name, iter(frames), 5) == tmp_path / name
    back = list(read_frames(tmp_path / name))
    assert [n for n, _ in back] == ['a_000000', 'a_000001', 'a_000002']
    for (_, found), given in zip(back, frames):
        assert found.shape == given.shape
        assert abs(found[:, :28].mean((0, 1)) - given[0, 0]).max() < 25
    assert frame_rate(tmp_path / name) == 5
    assert [p.name for p in (tmp_path / name).parent.iterdir()] == ['a' + (tmp_path / name).suffix]


def test_frames_of_other_and_of_odd_sizes_fit_into_one_video(tmp_path):
    path = write_video(tmp_path / 'a.mp4', [frame(9, 41, 65), frame(9, 20, 30)])
    assert [f.shape for _, f in read_frames(path)] == [(40, 64, 3)] * 2


def test_reads_an_image_and_a_folder_in_order(tmp_path):
    for i, name in enumerate(('b.png', 'a.PNG', 'c.jpg', 'notes.txt')):
        cv2.imwrite(str(tmp_path / 'x.png'), frame(40 * i)[..., ::-1])
        (tmp_path / 'x.png').rename(tmp_path / name)
    assert [name for name, _ in read_frames(tmp_path)] == ['a', 'b', 'c']
    (name, image), = read_frames(tmp_path / 'b.png')
    assert name == 'b' and (image == frame(0)).all()
    assert (read_image(tmp_path / 'a.PNG') == frame(40)).all()


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
    with pytest.raises(DataError, match=r"ending '\.gif', expected one of \.mp4"):
        write_video(tmp_path / 'a.gif', [frame(0)])
    with pytest.raises(DataError, match='no frame came'):
        write_video(tmp_path / 'a.mp4', [])


def test_a_video_that_breaks_off_leaves_nothing(tmp_path):
    def frames():
        yield frame(0)
        raise RuntimeError('cut')

    with pytest.raises(RuntimeError, match='cut'):
        write_video(tmp_path / 'a.mp4', frames())
    assert not list(tmp_path.iterdir())
