"""Finds people in scans with a trained net and draws them in the image, from above and in space."""
import contextlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.logging import print_log
from torch import Tensor, nn

from perception.common import boxes as geometry
from perception.common.dataset import build_pipeline, run_pipeline
from perception.common.formats.images import SUFFIXES, read_header, read_image
from perception.common.formats.point_files import is_recording, read_recording
from perception.common.formats.points import Cloud, PointReader, find_points, scan_name
from perception.common.predictor import Found, Predictor
from perception.common.structures import BoxSample
from perception.common.visual import canvas
from perception.common.visual.bev import Trails
from perception.common.visual.points import height_greys
from perception.common.visual.recording import Recording
from perception.crowd.datasets.stcrowd.annotations import Annotations, read_annotations, seconds_of
from perception.crowd.datasets.stcrowd.reader import camera_inputs, read_camera
from perception.crowd.draw import VIEWS, arrays_of, draw_people, image_of, layers_of, make_look
from perception.crowd.tracking.trackers import make_tracker
from perception.utils.checkpoint import atomic_path
from perception.utils.checks import check_choice
from perception.utils.errors import ConfigError, DataError

Scan = str | Path | np.ndarray | Tensor


class CrowdPredictor(Predictor):
    """Takes scans: a file of any format of `perception/common/formats/point_files.py`, or an array of points.

    An array or tensor is (N, 4) of x, y, z [m] and intensity, (N, C) of the named `columns`, or structured. Of a scan
    in STCrowd's layout, `<root>/pcd/<seq>/<seconds>.bin`, the image and the camera are known where the annotations of
    its sequence are there; of others they are told by `images` and `camera`.

    The views: 'plain' shows all there are beside each other, 'bev' from above, 'image' the camera's, '3d' in space,
    which needs Open3D. Where the truth has tracks, from above and in the image it is seen where people came from;
    'tracks' shows there who was followed through the scans, which have to be those of one drive in order of time, and
    where to; then saved predictions have tracks too.

    Args:
        model: in evaluation mode, or None.
        data: config of the data set, its `type` a class with the `FRAME` of its scans.
        columns, intensity_scale, missing_intensity, unit, forward, height, invalid, topic: how scans of another sensor
            become such as the net was trained on, see PointReader; by default as the data set has its own.
        images: folder of the images, each called as its scan.
        camera: file of their projection, a JSON with p (3 x 4), r and t (4 x 4) such as STCrowd's camera.json; p r t
            projects points [m] as they are in the files, before `forward` and `height` move them.
        min_score: predictions below it are not drawn.
        front, back, side: m before, behind and at each side of the sensor that is drawn from above.
        tracker: name or config of the Tracker of the view 'tracks'.
        interval: s between scans that are followed, and between frames of a film; times in their names tell where some
            are missing.
        counts: whom the test counts, see Filters; pictures with the truth count the same people.

    Raises:
        ConfigError: options that cannot be, a tracker that is not known, or images without a camera.
        DataError: a folder of images that is not there, a camera that cannot be read.
    """

    noun = 'scan'
    views = ('plain', 'tracks', *VIEWS)
    saves = ('json', 'npy')

    def __init__(self, model: nn.Module | None, data: dict, columns: str | Sequence[str] | None = None,
                 intensity_scale: float | str | None = None, missing_intensity: float | None = None,
                 unit: float | None = None, forward: str | None = None, height: float | None = None,
                 invalid: str | None = None, topic: str | None = None, images: str | None = None,
                 camera: str | None = None, min_score: float = 0.3, front: float = 36.0, back: float = 2.0,
                 side: float = 36.0, tracker: str | dict = 'KalmanTracker', interval: float = 0.4,
                 counts: dict | None = None) -> None:
        super().__init__(model, data)
        options = dict(columns=columns, intensity_scale=intensity_scale, missing_intensity=missing_intensity, unit=unit,
                       forward=forward, height=height, invalid=invalid, topic=topic)
        self.reader = PointReader(**{name: value for name, value in options.items() if value is not None},
                                  frame=data['type'].FRAME)
        if (images is None) != (camera is None):
            raise ConfigError(f'CrowdPredictor: images={images!r}, camera={camera!r}, expected both or none. Give the '
                              "folder of the images and the file of the camera's projection.")
        # what the data set does to points before the net sees them, such as leaving out those out of its bounds
        self.pipeline = build_pipeline(data.get('pipeline', ()))
        self.images = None if images is None else Path(images).expanduser()
        if self.images is not None and not self.images.is_dir():
            raise DataError(f'{images}: no such folder, expected that of the images, each called as its scan. Correct '
                            'images.')
        self.lidar_to_image = None if camera is None else self._moved(_camera(camera))
        self.look = make_look(dict(min_score=min_score, front=front, back=back, side=side,
                                   forward=self.meta.get('forward', 0.0), counts=counts))
        self._annotations: dict[Path, Annotations] = {}
        self._refused: set[Path] = set()  # files of annotations that cannot be read
        self._trails, self._shape = Trails(), None  # of a film: where tracks have been, and the size of its images
        self.tracker, self._following = make_tracker(tracker, interval=interval), False

    def predict(self, sources: Sequence[Scan]) -> list[BoxSample]:
        """Find the people of some scans.

        Args:
            sources: scans, N may be 0.

        Returns:
            their samples with `pred_boxes` (P, 9), `pred_scores` and `pred_labels` (P,) on the CPU, and what BoxSample
            says of meta information; between the scans of the view 'tracks' also `pred_track_ids` (P,).

        Raises:
            DataError: a scan that cannot be read, has another shape or is not finite.
        """
        try:
            batch = pseudo_collate([dict(inputs=self._inputs(source), data_samples=BoxSample(
                metainfo=self.known(source))) for source in sources])
        except DataError:
            if self._following and len(sources) == 1:  # its time has passed all the same
                self.tracker.update(np.zeros((0, 9)), np.zeros(0), self.known(sources[0]).get('timestamp'))
            raise
        with torch.no_grad():
            samples = [sample.cpu() for sample in self.model.test_step(batch)]
        for sample in samples if self._following else ():
            sample.pred_track_ids = torch.from_numpy(self.tracker.update(sample.pred_boxes, sample.pred_scores,
                                                                         sample.get('timestamp')))
        return samples

    def cloud(self, source: Scan) -> Cloud:
        """A scan with points (N, 4) float32 in the data set's frame, the intensity as its files have it.

        Raises:
            DataError: an unreadable file, an array of another shape.
        """
        return self.reader.read(source.detach().cpu().numpy() if isinstance(source, Tensor) else source)

    def _inputs(self, source: Scan) -> dict[str, Tensor]:
        """What the net takes of a scan, and of its image where the data set reads images."""
        inputs, reduce = dict(points=torch.from_numpy(self._seen(source))), self.data.get('image_reduce')
        if reduce:
            known = self.known(source)
            there = known['image_path'] and Path(known['image_path']).is_file()
            image = read_image(known['image_path'], upright=True, reduce=reduce) if there else None
            if image is None:
                print_log(f'{known["sample_id"]}: no image, expected one for a net that sees the camera; people are '
                          'looked for without. Give images and camera.', 'current', logging.WARNING)
            inputs.update(camera_inputs(image, known.get('lidar_to_image', np.eye(4)), reduce,
                                        where=known['image_path']))
        return inputs

    def _seen(self, source: Scan) -> np.ndarray:
        """Points (N, 4) float32 as the net takes them: as the data set reads them, after its pipeline."""
        points = self.cloud(source).points
        scale = self.data.get('intensity_scale', self.data['type'].FRAME.strongest)
        points[:, 3] = np.tanh(points[:, 3] / np.float32(scale))
        return run_pipeline(self.pipeline, dict(points=points), self.meta.get('classes'))['points']

    def known(self, source: Scan) -> dict:
        """Meta information of a scan, see BoxSample: its name, and its image and camera where they are known."""
        if not isinstance(source, (str, Path)):
            return dict(sample_id='scan', points_path='', image_path='')
        path = Path(source)
        name = scan_name(path)
        known = dict(sample_id=name, points_path=str(source), image_path='', timestamp=seconds_of(name))
        if self.images is not None:
            image = next((file for ending in SUFFIXES if (file := self.images / f'{name}{ending}').exists()),
                         None)
            return dict(known, image_path=str(image or ''), lidar_to_image=self.lidar_to_image)
        root = path.absolute().parent.parent.parent
        file = root / 'anno' / f'{path.absolute().parent.name}.json'
        if path.absolute().parent.parent.name == 'pcd' and file.is_file():
            try:
                annotations, frame = self._frame(file, path)
            except DataError as error:  # people are found without them, also where the scan is none of the annotated
                if file not in self._annotations and file not in self._refused:
                    print_log(f'{error} Scans are drawn without their images.', 'current', logging.WARNING)
                    self._refused.add(file)
                return known
            image = annotations.images[frame]
            known['lidar_to_image'] = self._moved(read_camera(root / 'camera.json'))
            known['image_path'] = str(root / image) if image else ''
        return known

    def _moved(self, lidar_to_image: np.ndarray) -> np.ndarray:
        """A projection (4, 4) of points as they are in the files, for those that the reader has moved."""
        return lidar_to_image @ np.linalg.inv(self.reader.to_frame)

    def _frame(self, file: Path, scan: Path) -> tuple[Annotations, int]:
        """Annotations of a file, and which frame of it a scan is.

        Raises:
            DataError: the file cannot be read, or is of other scans.
        """
        if file not in self._annotations:
            self._annotations[file] = read_annotations(file)
        parts = scan.absolute().parts[-3:]
        own = '/'.join(parts if parts[0] == 'pcd' else parts[-1:])  # sequences may have scans of the same name
        frame = next((i for i, points in enumerate(self._annotations[file].points) if f'/{points}'.endswith(f'/{own}')),
                     None)
        if frame is None:
            raise DataError(f'{file}: no frame of {own} among its {len(self._annotations[file].points):,}, expected '
                            'the annotations of that scan. Name the file or folder that they stand in.')
        return self._annotations[file], frame

    def save(self, form: str, folder: Path, name: str, source: Scan, sample: BoxSample) -> Path:
        """Write the people of a scan.

        Args:
            form: 'json', a list of objects with `class`, `score` and `box` (x, y, z of the centre, l, w, h [m], yaw
                [rad], vx, vy [m/s], null where unknown), the best first; 'npy', (P, 11) float32 of the box, the score
                and the number of the class. Of the view 'tracks' they have a `track`, null, or in a twelfth column -1,
                for none.
            folder, name, source, sample: see Predictor.

        Returns:
            the file.

        Raises:
            ConfigError: another form.
            DataError: the file cannot be written.
        """
        check_choice('--save-as', form, self.saves)
        values, path = arrays_of(sample), folder / f'{name}.{form}'
        order = np.argsort(-values['pred_scores'], kind='stable')
        boxes, scores, labels = (values[key][order] for key in ('pred_boxes', 'pred_scores', 'pred_labels'))
        tracks = values['pred_track_ids'][order] if 'pred_track_ids' in values else None
        with atomic_path(path, DataError) as part, open(part, 'wb') as file:
            if form == 'npy':
                columns = [scores, labels] if tracks is None else [scores, labels, tracks]
                np.save(file, np.concatenate([boxes, np.stack(columns, 1)], 1).astype(np.float32))
            else:
                rows = np.where(np.isfinite(boxes), np.round(boxes.astype(np.float64), 4), None).tolist()
                found = [{'class': self.meta['classes'][label], 'score': round(float(score), 4), 'box': row}
                         for label, score, row in zip(labels, scores, rows)]
                for one, track in zip(found, () if tracks is None else tracks.tolist()):
                    one['track'] = track if track >= 0 else None
                file.write(json.dumps(found).encode())
        return path

    def sources(self, path: str | Path) -> Iterator[tuple[str, Scan]]:
        """Name and file of the scan, or of each scan in a folder; of a ROS recording name and points of each cloud."""
        for file in find_points(path):
            if is_recording(file):
                yield from read_recording(file, self.reader.topic)
            else:
                yield scan_name(file), file

    def truth(self, labels: str | Path, name: str, source: Scan) -> dict[str, np.ndarray]:
        """The people of a scan, as arrays of what BoxSample says of the truth.

        Args:
            labels: STCrowd's annotations, `<seq>.json`, or the folder `anno` of all, in which the folder of the scan
                tells the sequence.
            name, source: of `sources`.

        Raises:
            DataError: they cannot be read, or are of other scans.
        """
        path = Path(labels).expanduser()
        if not isinstance(source, (str, Path)):
            raise DataError(f'--labels {labels}: {name} is no file, expected a scan that the annotations name. Draw it '
                            'without.')
        source = Path(source).absolute()
        annotations, frame = self._frame(path / f'{source.parent.name}.json' if path.is_dir() else path, source)
        own, move = slice(*annotations.rows[frame:frame + 2]), self.reader.to_frame
        boxes = geometry.rotate(annotations.boxes[own], np.arctan2(move[1, 0], move[0, 0]))
        boxes = geometry.translate(boxes, move[:3, 3])
        return dict(boxes=boxes, labels=np.zeros(len(boxes), np.int64), track_ids=annotations.track_ids[own],
                    num_points=annotations.num_points[own], ignore=boxes[:, 5] < self.data.get('min_height', 1.2))

    def rate(self, path: str | Path) -> float:
        """See Predictor; scans follow each other after the tracker's `interval`."""
        return 1 / self.tracker.interval

    def begin(self, path: str | Path, view: str) -> None:
        """See Predictor; tracks begin anew.

        Raises:
            ConfigError: 'tracks' without a model.
        """
        if view == 'tracks' and self.model is None:
            raise ConfigError('--view tracks: no checkpoint came, expected one, for predictions are followed. Name it '
                              'after the config; the tracks of --labels are drawn by --view plain.')
        self._trails, self._shape, self._following = Trails(), None, view == 'tracks'
        self.tracker.begin()

    def draw(self, source: Scan, sample: BoxSample | None = None, truth: Mapping | None = None,
             title: str = '') -> np.ndarray:
        """Views of a scan beside each other; with the truth, what was found, missed and wrong.

        Args:
            source: what the predictor was called with.
            sample: what it returned.
            truth: what `truth` returned.
            title: written above it; the name of the sample by default.

        Returns:
            (H, W, 3) uint8 RGB.
        """
        return self._picture(VIEWS, source, sample, truth, title)

    def view(self, view: str, source: Scan, sample: BoxSample | None, truth: Mapping | None,
             name: str) -> np.ndarray:
        """One picture of the kind `view`, of one size for all scans of a film.

        Raises:
            DataError: for 'image', a scan of which none is known.
        """
        if view == 'tracks':
            found = arrays_of(sample)
            own = found['pred_track_ids'] >= 0
            self._trails.add(found['pred_track_ids'][own], _feet(found['pred_boxes'][own]))
        elif truth is not None and 'track_ids' in truth:
            self._trails.add(truth['track_ids'], _feet(truth['boxes']))
        views = dict(plain=VIEWS, tracks=('image', 'bev')).get(view, (view,))
        return self._picture(views, source, sample, truth, name, self._trails)

    def _picture(self, views: Sequence[str], source: Scan, sample: BoxSample | None, truth: Mapping | None,
                 title: str, trails: Trails | None = None) -> np.ndarray:
        known = self.known(source)
        everything = self._all(known, sample, truth)
        image = image_of(known) if 'image' in views else None
        if image is None and self._shape is not None and 'image' in views:
            image = canvas.blank(*self._shape)  # frames of a film are of one size
        if image is None and tuple(views) == ('image',):
            asked = 'a scan in STCrowd\'s layout with its annotations. Give images and camera' if self.images is None \
                else f'{self.images / known["sample_id"]} with the ending of an image. Call the image as its scan'
            raise DataError(f'--view image: no image of {known["sample_id"]} is known, expected {asked}, or take '
                            '--view bev.')
        self._shape = self._shape if image is None or trails is None else image.shape[:2]
        return draw_people(self.cloud(source).points, everything, self.meta['palette'], self.look, image,
                           title or known['sample_id'], views, trails)

    @staticmethod
    def _all(known: Mapping, sample: BoxSample | None, truth: Mapping | None) -> dict:
        """What is known of a scan, predicted and true; and the size of its image, as some tests count nobody beyond."""
        if known['image_path'] and Path(known['image_path']).is_file():
            with contextlib.suppress(DataError):  # said where it is looked at
                known = dict(known, image_size=read_header(known['image_path']).size[::-1])
        predicted = {} if sample is None else arrays_of(
            {key: sample.get(key) for key in ('pred_boxes', 'pred_scores', 'pred_labels', 'pred_track_ids')})
        return {**known, **predicted, **(truth or {})}

    def log(self, recording: Recording, found: Found) -> None:
        """Put a scan into a recording: its points by height, its image, and the boxes true and predicted."""
        known, points = self.known(found.source), self.cloud(found.source).points
        low = np.percentile(points[:, 2], 5) if len(points) else 0.0
        recording.points('scan/points', points, height_greys(points, low, low + 3))
        layers, _ = layers_of(self._all(known, found.sample, found.truth), self.meta['palette'], self.look)
        for number, layer in enumerate(layers):
            recording.boxes(f'scan/{layer.name or number}', layer.boxes, layer.rgb, layer.texts)
        image = image_of(known)
        if image is not None:
            recording.image('image', image)

    def draw_sample(self, sample: dict, title: str = '') -> np.ndarray:
        """See Predictor; boxes lie in the image as the augmentation left both, in the file's where nets see none."""
        inputs, people = sample['inputs'], sample['data_samples'].to_dict()
        if 'image' in inputs:
            image = inputs['image'].permute(1, 2, 0).numpy() if inputs['image'].numel() else None
            matrix = inputs['to_image'].numpy().astype(np.float64)
            for row, size in enumerate(inputs['image'].shape[:0:-1]):
                matrix[row] = size * matrix[row] - 0.5 * matrix[2]  # pixels count from the first one's middle
            people['lidar_to_image'] = matrix
        else:
            image = image_of(people)
        return draw_people(inputs['points'].numpy(), people, self.meta['palette'], self.look, image, title)


def _feet(boxes: np.ndarray) -> np.ndarray:
    """(K, 3) middles of the floors of boxes (K, 7+)."""
    return boxes[:, :3] - [0, 0, 0.5] * boxes[:, 5:6]


def _camera(path: str | Path) -> np.ndarray:
    """The projection (4, 4) of a file, see `read_camera`, which takes STCrowd's where there is none.

    Raises:
        DataError: no such file, or no projection in it.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f'{path}: no such file, expected the projection of the images, a JSON with p, r and t. Correct '
                        'camera.')
    return read_camera(path)
