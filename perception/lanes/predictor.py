"""Finds lanes on images with a trained net and draws them.

An image of any size is first brought to the shape of the data set's own images: rows are cut off its top (sky) or
columns off its sides until its width and height are in the same proportion. `crop` and `horizon` choose another part.
The part passes the data set's pipeline and is scaled to the net's size once, as a test does with the data set's images,
also smaller copies of them. A data set whose images have any size shows the net whole images, and so do predictions.
Lanes come back in pixels of the image that was given, turned upright where a phone's note asks for that.
"""
import functools
import inspect
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from torch import nn

from perception.common.dataset import build_pipeline, run_pipeline
from perception.common.formats.images import read_image, read_label_image
from perception.common.image_submission import write_png
from perception.common.predictor import Found, Predictor
from perception.common.structures import LaneSample
from perception.common.visual.recording import Recording
from perception.common.visual.video import IMAGES, VIDEOS, find_files, is_video, read_frames
from perception.lanes.attention import attention_map, draw_attention, record_stages
from perception.lanes.datasets.base import check_size, resize, to_tensors
from perception.lanes.datasets.culane.reader import read_lanes
from perception.lanes.datasets.culane.submission import write_lanes as write_lines
from perception.lanes.datasets.folder.labelling import Drawing, lanes_of, of_files, read_cvat, read_labelme
from perception.lanes.datasets.folder.reader import LABEL_IMAGES
from perception.lanes.draw import MAPS, PALETTE, draw_sample, drawable, named_slots
from perception.lanes.polylines import quantise
from perception.utils.checkpoint import atomic_path
from perception.utils.checks import check_choice, rows_and_columns
from perception.utils.errors import ConfigError, DataError

Image = str | Path | np.ndarray
SUFFIXES = dict(json='.json', lines='.lines.txt', png='_labels.png', probabilities='_probabilities.npy')  # of --save-as
MIN_SIDE = 16  # pixels of an image that is worth looking at


class LanePredictor(Predictor):
    """Predictor of lanes; a source is an image file or (H, W, 3) uint8 RGB.

    Args:
        model: a LaneNet in evaluation mode, or None.
        data: config of the data set it is tested on; its `input_size` and `crop_top` are those of the net.
        crop: part of each picture that is shown to the net, `left,top,right,bottom` in its pixels, right and bottom
            excluded; rows or columns are still cut off it as above. The whole by default.
        horizon: row of the horizon in each picture. Then the part is shown in which the horizon lies where it lies in
            the data set's images, as large as it can be, instead of the lower one.

    Raises:
        ConfigError: a crop or horizon that cannot be, or a data set that does not know its own horizon.
    """

    noun = 'image'
    reads = (*IMAGES, *VIDEOS)
    views = ('plain', 'attention')
    saves: tuple[str, ...] = ('json', 'lines', 'png', 'probabilities')

    def __init__(self, model: nn.Module | None, data: dict, crop: str | Sequence[int] | None = None,
                 horizon: float | None = None) -> None:
        super().__init__(model, data)
        self.pipeline = build_pipeline(data.get('pipeline', ()))
        if not getattr(model, 'finds_lanes', True):
            self.saves = ('png', 'probabilities')
        self.crop, self.horizon = parse_crop(crop), None
        if horizon is not None:
            own = self.data.get('horizon') or self.data['type'].HORIZON
            if own is None or self.image_size is None:
                raise ConfigError(f'LanePredictor: horizon={horizon!r} for {self.data["type"].__name__}, expected a '
                                  'data set that says where the horizon of its own images lies. Set horizon and '
                                  'image_size of the data set, or choose the part by crop.')
            try:
                self.horizon = (float(horizon), float(own) / self.image_size[0])
            except (TypeError, ValueError) as error:
                raise ConfigError(f'LanePredictor: horizon={horizon!r}, expected a row in pixels. Correct it.'
                                  ) from error

    def predict(self, sources: Sequence[Image]) -> list[LaneSample]:
        """Find the lanes of some images.

        Returns:
            their samples on the CPU, with the net's predictions, `pred_lanes` in pixels of the image, and `seen`, the
            part of it that the net saw: left, top, width, height.

        Raises:
            DataError: an image that cannot be read, or has another shape or too few pixels.
        """
        images = [read(source) for source in sources]
        fitted = [self._fit(image, source) for image, source in zip(images, sources)]
        samples = self._run([part for part, _ in fitted], sources)
        for sample, image, (_, box) in zip(samples, images, fitted):
            if 'pred_lanes' in sample:
                sample.pred_lanes = [np.asarray(lane, np.float64) + box[:2] for lane in sample.pred_lanes]
            sample.set_metainfo(dict(seen=box, original_shape=image.shape[:2]))
        return samples

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Rows and columns of the data set's own images, None where they may have any."""
        size = self.data.get('image_size') or self.data['type'].IMAGE_SIZE
        return None if size is None else rows_and_columns('image_size', size)

    def crop_top(self, rows: int) -> int:
        """Rows that the data set cuts off the top of a copy of its own images with so many rows."""
        own = rows if self.image_size is None else self.image_size[0]
        return round((self._argument('crop_top') or 0) * rows / own)

    def _argument(self, name: str) -> Any:
        """An argument of the data set: the config's, else the default of its class."""
        known = inspect.signature(self.data['type']).parameters
        return self.data.get(name, known[name].default if name in known else None)

    def _fit(self, image: np.ndarray, source: Image) -> tuple[np.ndarray, tuple[int, int, int, int]]:
        """See `fit`."""
        return fit(image, self.image_size, _name(source), self.crop, self.horizon)

    @torch.no_grad()
    def _run(self, images: Sequence[np.ndarray], sources: Sequence[Image]) -> list[LaneSample]:
        """The net's predictions for images (H0, W0, 3) in the shape of the data set's own."""
        size, batch = self._argument('input_size'), []
        if size is None and self.image_size is not None:
            rows, columns = self.image_size
            size = (rows - self.crop_top(rows), columns)
        for image, source in zip(images, sources):
            crop_top = self.crop_top(image.shape[0])
            if crop_top >= image.shape[0]:
                raise DataError(f'{_name(source)}: {image.shape[0]} rows, expected more than crop_top={crop_top}, '
                                'which are cut off. Give larger pictures, or image_size in the config, whose rows '
                                'crop_top counts in.')
            path = source if isinstance(source, (str, Path)) else ''
            info = dict(sample_id=Path(path).stem if path else 'image', image_path=str(path),
                        original_shape=image.shape[:2], crop_top=crop_top)
            arrays = run_pipeline(self.pipeline, dict(image=image[crop_top:]), self.meta.get('classes'))
            seen = dict(image=arrays['image'])
            batch.append(to_tensors(seen if size is None else resize(seen, size), info=info))
        return [sample.cpu() for sample in self.model.test_step(pseudo_collate(batch))]

    def sources(self, path: str | Path) -> Iterator[tuple[str, Image]]:
        """Name and file of an image or of each image of a folder, or name and picture of each frame of a video."""
        for file in find_files(path, IMAGES, 'an image, a video or a folder of images'):
            if is_video(file):
                yield from read_frames(file)
            else:
                yield file.stem, file

    def truth(self, labels: str | Path, name: str, source: Any) -> dict:
        """True lanes of an image: CULane's lines, a file of labelme or CVAT, or a label image, see `LaneFolder`.

        Args:
            labels: the file, CVAT's of all images, or the folder that holds `<name>.lines.txt`, `<name>.json` or
                `<name>.png`.
            name: of the image.
            source: the image.

        Returns:
            `lanes`, a list of (P, 2) arrays, or of a label image `labels` (H, W) uint8.

        Raises:
            DataError: no such file, or one that cannot be read.
        """
        path = Path(labels).expanduser()
        if path.is_dir():
            files = [path / f'{name}{suffix}' for suffix in ('.lines.txt', '.json', '.png')]
            path = next((file for file in files if file.is_file()), files[0])
        if not path.is_file():
            raise DataError(f'{path}: no such file, expected the lanes of {name}. An empty file says that there are '
                            'none; without --labels predictions alone are drawn.')
        if path.suffix.lower() not in ('.json', '.xml', *LABEL_IMAGES):
            return dict(lanes=read_lanes(path))
        shape = read(source).shape[:2]
        if path.suffix.lower() == '.xml':
            image = Path(source).as_posix() if isinstance(source, (str, Path)) else name
            drawing, = of_files(_cvat(path, path.stat().st_mtime), [image], path)
            return dict(lanes=[] if drawing is None else lanes_of(drawing, shape, self.data.get('shapes')))
        if path.suffix.lower() == '.json':
            return dict(lanes=lanes_of(read_labelme(path), shape, self.data.get('shapes')))
        labels = check_size(read_label_image(path), shape, path)
        return dict(lanes=None, labels=cv2.resize(labels, shape[::-1], interpolation=cv2.INTER_NEAREST))

    def save(self, form: str, folder: Path, name: str, source: Image, sample: LaneSample) -> Path:
        """Write what was found on an image.

        Args:
            form: 'json', `image`, `width`, `height`, `seen` (left, top, width, height of what the net saw) and
                `lanes`, each with `name` and `slot` (null where lanes have none), `probability` (null where the net
                tells none) and `points` [[u, v], ...] in pixels of the image, bottom to top; 'lines', the same points
                in CULane's `.lines.txt`; 'png', the class of each pixel of the image, in `<name>_labels.png`;
                'probabilities', (C, H, W) float32 at the net's size, in `<name>_probabilities.npy`.
            folder, name, source, sample: see Predictor.

        Returns:
            the file.

        Raises:
            ConfigError: another form.
            DataError: the file cannot be written, or the net finds no lanes but classes.
        """
        check_choice('--save-as', form, self.saves)
        path = folder / f'{name}{SUFFIXES[form]}'
        shape = sample.original_shape
        found = self._prediction(sample, shape) or {}
        if form in ('json', 'lines') and found.get('lanes') is None:
            raise DataError(f'{path}: the net tells classes of pixels, no lanes, expected lanes to save as {form}. '
                            'Save it as png, or name a decoder in the config.')
        lanes = [quantise(lane, str(path)) for lane in found.get('lanes') or () if len(lane) > 1]
        if form == 'lines':
            write_lines(path, lanes)
        elif form == 'png':
            write_png(path, found['labels'])
        else:
            with atomic_path(path, DataError) as part, open(part, 'wb') as file:
                if form == 'probabilities':
                    np.save(file, sample.lane_probs.numpy().astype(np.float32))
                else:
                    file.write(json.dumps(self._record(sample, lanes, found, shape), indent=1).encode())
        return path

    def _record(self, sample: LaneSample, lanes: Sequence[np.ndarray], found: dict, shape: tuple[int, int]) -> dict:
        """Lanes of an image as JSON has them, see `save`."""
        classes, exist = self.meta['classes'], sample.get('exist_probs')
        slots, known = named_slots(lanes, found, classes)
        return dict(
            image=Path(sample.image_path).name, width=int(shape[1]), height=int(shape[0]),
            seen=list(map(int, sample.seen)),
            lanes=[dict(name=classes[slot] if known else f'lane {slot}', slot=slot if known else None,
                        probability=round(float(exist[slot - 1]), 4) if known and exist is not None else None,
                        points=lane.tolist()) for lane, slot in zip(lanes, slots)])

    def draw(self, source: Image, sample: LaneSample | None = None, truth: dict | None = None,
             title: str = '') -> np.ndarray:
        """Picture of an image with its predicted lanes and the true ones; arguments as of `Predictor.draw`."""
        pixels = read(source)
        title = title or ('' if sample is None else sample.get('sample_id', ''))
        prediction = None if sample is None else self._prediction(sample, pixels.shape[:2])
        return draw_sample(pixels, self.meta['classes'], self.meta['palette'], prediction, truth, title)

    def _prediction(self, sample: LaneSample, shape: tuple[int, int]) -> dict | None:
        """What a sample holds to be drawn on the whole image of (H, W) pixels, see `drawable`."""
        fields = {key: sample.get(key)
                  for key in ('pred_lanes', 'pred_labels', 'lane_probs', 'crop_top', 'own_classes')}
        left, top, width, height = sample.get('seen')
        found = drawable(dict(fields, original_shape=(height, width)), 'pred_')
        for key in MAPS if found is not None else ():
            if found[key] is not None:
                whole = np.zeros(shape, np.uint8)
                whole[top:top + height, left:left + width] = found[key]
                found[key] = whole
        return found

    def view(self, view: str, source: Image, sample: LaneSample | None, truth: dict | None, name: str) -> np.ndarray:
        """The plain picture, or where the stages of the net look.

        Raises:
            ConfigError: attention without a net.
        """
        if view != 'attention':
            return self.draw(source, sample, truth, name)
        return draw_attention(read(source), self.stage_maps(source), name)

    def log(self, recording: Recording, found: Found) -> None:
        """Put an image into a recording with its predicted and its true lanes; without lanes its picture."""
        known = dict(prediction=(found.sample, 'pred_lanes'), truth=(found.truth, 'lanes'))
        lanes = {name: part.get(key) for name, (part, key) in known.items() if part is not None}
        if any(some is None for some in lanes.values()):
            super().log(recording, found)
            return
        recording.image('image', read(found.source))
        for name, some in lanes.items():
            recording.lines(f'image/{name}', some, [PALETTE[i % len(PALETTE)] for i in range(len(some))])

    def stage_maps(self, source: Image) -> dict[str, np.ndarray]:
        """Attention of each stage of the net on an image, see `attention_map`.

        Returns:
            stage -> (H, W) map of 0..1 over the image; rows and columns that the net does not see are 0.

        Raises:
            ConfigError: there is no net.
            DataError: see `__call__`.
        """
        if self.model is None:
            raise ConfigError('--view attention: no net came, expected one whose stages are looked at. Give a config '
                              'and a checkpoint.')
        pixels, maps = read(source), {}
        fitted, (left, top, width, height) = self._fit(pixels, source)
        with record_stages(self.model) as found:
            self._run([fitted], [source])
        if not found:
            raise ConfigError(f'--view attention: {type(self.model).__name__} has no stages to look at, expected a net '
                              'with modules stage1, stage2, ... and its own weights. Draw the plain view.')
        cut = self.crop_top(height)
        for name, feats in found.items():
            maps[name] = np.zeros(pixels.shape[:2], np.float32)
            maps[name][top + cut:top + height, left:left + width] = cv2.resize(
                attention_map(feats[0]), (width, height - cut), interpolation=cv2.INTER_LINEAR)
        return maps

    def draw_sample(self, sample: dict, title: str = '') -> np.ndarray:
        """See Predictor; the labels are those that the loss sees."""
        labels = sample['data_samples'].get('labels')
        truth = None if labels is None else dict(lanes=None, labels=labels.numpy())
        return draw_sample(sample['inputs']['image'].permute(1, 2, 0).numpy(), self.meta['classes'],
                           self.meta['palette'], None, truth, title)


@functools.lru_cache(1)
def _cvat(path: Path, _: float) -> dict[str, Drawing]:
    """CVAT's file of all images, which is read once until it is another one."""
    return read_cvat(path)


def read(image: Image) -> np.ndarray:
    """An image file or array as (H, W, 3) uint8 RGB.

    Raises:
        DataError: an unreadable file, an array of another shape or type.
    """
    if isinstance(image, (str, Path)):
        return read_image(image, upright=True)
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise DataError(f'LanePredictor: an array of shape {image.shape} and type {image.dtype}, expected (H, W, 3) '
                        'uint8 RGB. Convert it first.')
    return image


def fit(image: np.ndarray, size: tuple[int, int] | None, where: str = 'fit',
        crop: tuple[int, int, int, int] | None = None, horizon: tuple[float, float] | None = None,
        ) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """The part of an image that has the shape of a data set's images.

    Args:
        image: (H, W, 3) uint8 RGB.
        size: (H0, W0) of the data set's images; None takes the image as it is.
        where: start of an error message.
        crop: left, top, right, bottom of what is looked at.
        horizon: row of the horizon in the image, and its height in the data set's images as a share of their rows.

    Returns:
        the part (height, width, 3), and where it lies: left, top, width, height in pixels.

    Raises:
        DataError: a crop or horizon outside the image, or a part with next to no pixels.
    """
    left, top, right, bottom = crop or (0, 0, image.shape[1], image.shape[0])
    if right > image.shape[1] or bottom > image.shape[0]:
        raise DataError(f'{where}: {image.shape[1]} x {image.shape[0]} pixels, expected an image that holds the crop '
                        f'{left},{top},{right},{bottom}. Give one for images of this size.')
    width, height = right - left, bottom - top
    keep_height, keep_width = height, width
    if size is not None:
        keep_height = min(height, round(width * size[0] / size[1]))
        if height * size[1] < width * size[0] - size[1]:  # too wide: both sides lose columns
            keep_width = round(height * size[1] / size[0])
    down = height - keep_height
    if horizon is not None:
        row, share = horizon[0] - top, horizon[1]
        if not 0 < row < height:
            raise DataError(f'{where}: rows {top} to {bottom}, expected the horizon, row {horizon[0]:g}, among them. '
                            'Correct horizon or crop.')
        keep_height = int(min(keep_height, row / share, (height - row) / (1 - share)))
        keep_width = min(width, round(keep_height * size[1] / size[0]))
        down = min(max(round(row - share * keep_height), 0), height - keep_height)
    if min(keep_height, keep_width) < MIN_SIDE:
        shown = 'are seen' if size is None else f"have the shape of the data set's {size[1]} x {size[0]}"
        raise DataError(f'{where}: {width} x {height} pixels, of which {keep_width} x {keep_height} {shown}, expected '
                        f'at least {MIN_SIDE} a side. Give a larger picture, or one of that shape.')
    left, top = left + (width - keep_width) // 2, top + down
    return image[top:top + keep_height, left:left + keep_width], (left, top, keep_width, keep_height)


def parse_crop(crop: str | Sequence[int] | None) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of a crop, such as '0,200,1920,1080'.

    Raises:
        ConfigError: it is no such four numbers.
    """
    if crop is None:
        return None
    try:
        box = tuple(int(n) for n in (crop.strip('()[] ').split(',') if isinstance(crop, str) else crop))
    except (TypeError, ValueError):
        box = ()
    if len(box) != 4 or min(box) < 0 or box[0] >= box[2] or box[1] >= box[3]:
        raise ConfigError(f'LanePredictor: crop={crop!r}, expected left,top,right,bottom in pixels, such as '
                          '0,200,1920,1080. Correct it.')
    return box


def _name(source: Image) -> str:
    """What a source is called in messages."""
    return str(source) if isinstance(source, (str, Path)) else 'an image'
