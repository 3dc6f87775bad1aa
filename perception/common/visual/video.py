"""Frames from image files, folders of images and videos, and a video from frames; all are (H, W, 3) uint8 RGB."""
import contextlib
import itertools
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np
from mmengine.logging import print_log

from perception.common.formats.images import SUFFIXES as IMAGES
from perception.common.formats.images import read_image
from perception.common.visual.points import has_display
from perception.utils.errors import ConfigError, DataError
from perception.utils.outputs import check_free, result_path
from perception.utils.paths import natural_order

VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v')
ENDINGS = (*VIDEOS, '.gif', '.mpg', '.mpeg', '.wmv', '.flv', '.ogv', '.3gp', '.ts', '.webp', '.apng')  # meant as videos
# of ffmpeg; H.264 with 4:2:0 colours and its index in front is what browsers, phones and slides play
_H264 = ('libx264', 'yuv420p', ('-crf', '20', '-movflags', '+faststart'))
CODECS = {'.mp4': _H264, '.m4v': _H264, '.mov': _H264, '.mkv': _H264, '.avi': ('mjpeg', 'yuvj420p', ('-q:v', '3'))}
GIF_WIDTH = 960
WHOLE = 0.95  # share of the stated frames of a video that is read; some kinds state them roughly


def is_video(path: str | Path) -> bool:
    """Whether a file name ends like that of a video."""
    return Path(path).suffix.lower() in VIDEOS


def is_film(path: str | Path) -> bool:
    """Whether an output is meant as a video or an animated picture, even one that cannot be written."""
    return Path(path).suffix.lower() in ENDINGS and not Path(path).is_dir()


def check_film(path: str | Path, fps: float = 10.) -> None:
    """See that a film can be written, before its frames are made.

    Args:
        path: of the file; its folder is made.
        fps: frames per second.

    Raises:
        ConfigError: a rate that no film has.
        DataError: an ending that cannot be written, a folder that cannot be made, or a file of other origin there.
    """
    path = Path(path)
    if path.suffix.lower() not in (*CODECS, '.gif'):
        raise DataError(f'{path}: a video cannot be written with the ending {path.suffix!r}, expected one of '
                        f'{", ".join(CODECS)}, .gif. Choose .mp4.')
    if not 0 < fps <= 240:
        raise ConfigError(f'{path}: {fps} frames per second, expected more than 0 and at most 240. 10 is what LiDARs '
                          'turn at.')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f'{path}: {error.strerror}, expected a folder that can be written. Choose another one.'
                        ) from error
    check_free(path)


def find_files(path: str | Path, suffixes: Iterable[str], what: str) -> list[Path]:
    """The file itself, or all files of a folder that end in a certain way, in the order of the numbers in their names.

    Args:
        path: a file or a folder.
        suffixes: lower case, each with its dot.
        what: what they are, for the message.

    Raises:
        DataError: neither is there.
    """
    path, suffixes = Path(path).expanduser(), tuple(suffixes)
    if path.is_file():
        return [path]
    files = sorted((p for p in path.glob('*') if p.suffix.lower() in suffixes and not p.name.startswith('.')),
                   key=lambda p: (natural_order(p.name), p.name))  # time of a film, and of nets that remember
    if not files:
        came = f'no {suffixes[0]} file in it' if path.is_dir() else 'no such file or folder'
        raise DataError(f'{path}: {came}, expected {what}. Check the path.')
    return files


def read_frames(path: str | Path) -> Iterator[tuple[str, np.ndarray]]:
    """Name and picture (H, W, 3) of an image file, of each image of a folder, or of each frame of a video.

    Args:
        path: of the file or folder; frames of a video are called `<name>_000000` and so on. Pictures and videos of
            phones are turned upright. A video with fewer frames than it states is read as far as it goes, with a
            warning.

    Raises:
        DataError: nothing there that can be read.
    """
    for file in find_files(path, IMAGES, 'an image, a video or a folder of images'):
        if not is_video(file):
            yield file.stem, read_image(file, upright=True)
            continue
        video, count = open_video(file), 0
        stated = video.get(cv2.CAP_PROP_FRAME_COUNT)
        try:
            while (frame := video.read())[0]:
                yield f'{file.stem}_{count:06d}', np.ascontiguousarray(frame[1][..., ::-1])
                count += 1
        finally:
            video.release()
        if not count:
            raise DataError(f'{file}: no frame can be read from {file.stat().st_size:,} bytes, expected a video. '
                            'It is truncated, or of a kind that is not read: copy it again, or convert it to MP4.')
        if count < WHOLE * stated:
            print_log(f'{file}: {count:,} of the {stated:,.0f} frames that it states can be read, expected all. It is '
                      'truncated or damaged; copy it again if you need the rest.', 'current', logging.WARNING)


def open_video(path: str | Path) -> cv2.VideoCapture:
    """A video to be read frame by frame, upright where a phone noted how it was held."""
    video = cv2.VideoCapture(str(path))
    video.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    return video


def frame_rate(path: str | Path, default: float = 10.) -> float:
    """Frames per second that a video states, `default` for anything else."""
    if not is_video(path):
        return default
    video = open_video(path)
    rate = video.get(cv2.CAP_PROP_FPS)
    video.release()
    return rate if 0 < rate < 1000 else default


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: float = 10.) -> Path:
    """Write a video or an animated GIF, wholly or not at all.

    Args:
        path: of the file, `.mp4`, `.mov`, `.mkv` (H.264), `.avi` or `.gif`; its folder is made.
        frames: (H, W, 3) uint8 RGB; those of another size than the first are scaled to it. In a GIF they are at most
            `GIF_WIDTH` pixels wide.
        fps: frames per second.

    Returns:
        The path.

    Raises:
        ConfigError: a rate that no film has.
        DataError: a file name with an unknown ending, no frames, or the file cannot be written.
    """
    path = Path(path)
    check_film(path, fps)
    with result_path(path) as part:
        count = (_write_gif if path.suffix.lower() == '.gif' else _write_frames)(part, path, frames, fps)
        if not count:
            raise DataError(f'{path}: no frame came, expected at least one. Check the input.')
    return path


def _write_frames(part: Path, path: Path, frames: Iterable[np.ndarray], fps: float) -> int:
    """Write a video by ffmpeg; returns the number of frames."""
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        return 0
    codec, colors, options = CODECS[path.suffix.lower()]
    kind = {'.mkv': 'matroska', '.m4v': 'mp4'}.get(path.suffix.lower(), path.suffix.lower()[1:])
    size = max(first.shape[1] // 2 * 2, 2), max(first.shape[0] // 2 * 2, 2)  # codecs want even sizes
    writer = imageio_ffmpeg.write_frames(
        f'file:{part}', size, fps=fps, codec=codec, pix_fmt_out=colors, macro_block_size=2, quality=None,
        ffmpeg_log_level='quiet', output_params=[*options, '-f', kind])
    with contextlib.closing(writer):
        writer.send(None)
        for count, frame in enumerate(itertools.chain([first], frames), 1):
            data = np.ascontiguousarray(_scaled(frame, size))
            try:
                writer.send(data)
            except OSError as error:
                raise _stopped(path, count) from error
    try:
        written = imageio_ffmpeg.count_frames_and_secs(str(part))[0]
    except RuntimeError as error:
        raise _stopped(path, count) from error
    if written != count:  # ffmpeg's end may come without a word
        raise _stopped(path, count)
    return count


def _stopped(path: Path, count: int) -> DataError:
    return DataError(f'{path}: ffmpeg stopped within the first {count:,} frames, expected a folder with room for a '
                     'film. Free some space or choose another folder.')


def _write_gif(part: Path, path: Path, frames: Iterable[np.ndarray], fps: float) -> int:
    """Write an animated GIF that begins anew at its end; returns the number of frames."""
    from PIL import Image
    count = 0

    def images() -> Iterator[Image.Image]:
        nonlocal count
        size = None
        for frame in frames:
            if size is None:
                shrink = min(1, GIF_WIDTH / frame.shape[1])
                size = round(frame.shape[1] * shrink), round(frame.shape[0] * shrink)
            count += 1
            small = Image.fromarray(_scaled(frame, size))
            palette = Image.new('P', (1, 1))
            palette.putpalette([*_frequent_colors(frame, 128).ravel().tolist(),
                                *small.quantize(128, Image.Quantize.FASTOCTREE).getpalette()[:384]])
            yield small.quantize(palette=palette, dither=Image.Dither.NONE)

    rest = images()
    first = next(rest, None)
    if first is not None:
        first.save(part, 'GIF', save_all=True, append_images=rest, duration=max(round(1000 / fps), 20), loop=0)
    return count


def _frequent_colors(frame: np.ndarray, count: int) -> np.ndarray:
    """(K, 3) uint8 the most frequent colours of a frame, such as those of its legend; at most `count`."""
    colors, times = np.unique(frame.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32), return_counts=True)
    return (colors[np.argsort(-times, kind='stable')[:count], None] >> np.array([16, 8, 0]) & 255).astype(np.uint8)


def _scaled(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame of width and height as given."""
    return frame if frame.shape[1::-1] == size else cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def show_image(image: np.ndarray, title: str = 'image') -> bool:
    """Show a picture in a window until a key is pressed.

    Args:
        image: (H, W, 3) uint8 RGB.
        title: of the window.

    Returns:
        Whether a window could be opened.
    """
    try:
        if not has_display():
            return False
        cv2.imshow(title, image[..., ::-1])
        cv2.waitKey(0)
        cv2.destroyWindow(title)
    except cv2.error:  # a build without windows
        return False
    return True
