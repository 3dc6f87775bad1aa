"""Frames from image files, folders of images and videos, and a video from frames; all are (H, W, 3) uint8 RGB."""
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from perception.common.formats.images import read_image
from perception.utils.errors import DataError

IMAGES = ('.jpg', '.jpeg', '.png', '.bmp')
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v')
CODECS = {'.mp4': 'mp4v', '.m4v': 'mp4v', '.mov': 'mp4v', '.mkv': 'mp4v', '.avi': 'MJPG'}


def is_video(path: str | Path) -> bool:
    """Whether a file name ends like that of a video."""
    return Path(path).suffix.lower() in VIDEOS


def find_files(path: str | Path, suffixes: Iterable[str], what: str) -> list[Path]:
    """The file itself, or all files of a folder that end in a certain way, in order.

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
    files = sorted(p for p in path.glob('*') if p.suffix.lower() in suffixes)
    if not files:
        came = f'no {suffixes[0]} file in it' if path.is_dir() else 'no such file or folder'
        raise DataError(f'{path}: {came}, expected {what}. Check the path.')
    return files


def read_frames(path: str | Path) -> Iterator[tuple[str, np.ndarray]]:
    """Name and picture of an image file, of each image of a folder, or of each frame of a video.

    Args:
        path: of the file or folder; frames of a video are called `<name>_000000` and so on.

    Raises:
        DataError: nothing there that can be read.
    """
    for file in find_files(path, IMAGES, 'an image, a video or a folder of images'):
        if not is_video(file):
            yield file.stem, read_image(file)
            continue
        video, count = cv2.VideoCapture(str(file)), 0
        try:
            while (frame := video.read())[0]:
                yield f'{file.stem}_{count:06d}', np.ascontiguousarray(frame[1][..., ::-1])
                count += 1
        finally:
            video.release()
        if not count:
            raise DataError(f'{file}: no frame can be read from {file.stat().st_size:,} bytes, expected a video. '
                            'Convert it to MP4 (H.264).')


def frame_rate(path: str | Path, default: float = 10.) -> float:
    """Frames per second that a video states, `default` for anything else."""
    if not is_video(path):
        return default
    video = cv2.VideoCapture(str(path))
    rate = video.get(cv2.CAP_PROP_FPS)
    video.release()
    return rate if 0 < rate < 1000 else default


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: float = 10.) -> Path:
    """Write a video, wholly or not at all.

    Args:
        path: of the file, `.mp4` or `.avi`; its folder is made.
        frames: (H, W, 3) uint8 RGB; those of another size than the first are scaled to it.
        fps: frames per second.

    Returns:
        The path.

    Raises:
        DataError: a file name with an unknown ending, no frames, or the file cannot be written.
    """
    path = Path(path)
    codec = CODECS.get(path.suffix.lower())
    if codec is None:
        raise DataError(f'{path}: a video cannot be written with the ending {path.suffix!r}, expected one of '
                        f'{", ".join(CODECS)}. Choose .mp4.')
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.{path.stem}.part{path.suffix}')
    writer, size = None, (0, 0)
    try:
        for frame in frames:
            if writer is None:
                size = frame.shape[1] // 2 * 2, frame.shape[0] // 2 * 2  # codecs want even sizes
                writer = cv2.VideoWriter(str(part), cv2.VideoWriter_fourcc(*codec), fps, size)
                if not writer.isOpened():
                    raise DataError(f'{path}: OpenCV cannot write a video of {size[0]} x {size[1]} pixels there, '
                                    f'expected a folder with room and a build with {codec}. Try .avi.')
            if frame.shape[1::-1] != size:
                frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
            writer.write(np.ascontiguousarray(frame[..., ::-1]))
        if writer is None:
            raise DataError(f'{path}: no frame came, expected at least one. Check the input.')
        writer.release()
        part.replace(path)
    finally:
        if writer is not None:
            writer.release()
        part.unlink(missing_ok=True)
    return path


def show_image(image: np.ndarray, title: str = 'image') -> bool:
    """Show a picture in a window until a key is pressed.

    Args:
        image: (H, W, 3) uint8 RGB.
        title: of the window.

    Returns:
        Whether a window could be opened.
    """
    from perception.common.visual.points import has_display
    try:
        if not has_display():
            return False
        cv2.imshow(title, image[..., ::-1])
        cv2.waitKey(0)
        cv2.destroyWindow(title)
    except cv2.error:  # a build without windows
        return False
    return True
