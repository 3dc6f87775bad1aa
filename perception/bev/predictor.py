"""Finds things around a car in the images of its cameras, of nuScenes or of any rig, and draws them."""
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.logging import print_log
from torch import Tensor, nn

from perception.bev.datasets.folder.reader import RigFolder, label_map_of, read_boxes
from perception.bev.datasets.nuscenes.map_presets import view_of
from perception.bev.datasets.nuscenes.metric import guess_attributes
from perception.bev.datasets.nuscenes.reader import (
    ATTRIBUTES,
    NuScenesRig,
    bounds_of,
    frame_to_world,
    from_world,
    pack_rig,
    preset_with,
    to_world_boxes,
)
from perception.bev.draw import CameraView, arrays_of, draw_rig, from_above, input_views, make_look
from perception.bev.rig import (
    NAME,
    Rig,
    find_moments,
    find_rigs,
    image_files,
    moments_of,
    parse_rig,
    read_images,
    read_rig,
    rig_sample,
)
from perception.bev.seen import CELL, draw_cell, draw_frustum, look_through
from perception.bev.transforms import SweepDepth, image_matrices
from perception.common.dataset import build_pipeline, run_pipeline
from perception.common.nuscenes.maps import rasterise, read_map
from perception.common.nuscenes.poses import inverse_rigid
from perception.common.nuscenes.reader import read_index
from perception.common.nuscenes.tables import VERSIONS
from perception.common.predictor import Predictor
from perception.common.structures import RigSample
from perception.common.visual import canvas
from perception.utils.checkpoint import atomic_path
from perception.utils.checks import check_choice
from perception.utils.errors import ConfigError, DataError

VIEWS = ('plain', 'image', 'bev', 'depth', 'frustum', 'cell', 'map')
LAYERS = ('drivable_area', 'road_segment', 'lane', 'carpark_area', 'walkway', 'ped_crossing', 'stop_line',
          'road_divider', 'lane_divider')  # of nuScenes' maps, as --view map paints them
MAP_STEP = 0.2  # m of its cells


class RigSource(NamedTuple):
    """Images of a rig.

    Attributes:
        rig: the cameras.
        images: a file or (H, W, 3) uint8 RGB for each.
        name: of the moment.
    """
    rig: Rig
    images: tuple[Any, ...]
    name: str = 'rig'


Source = str | Path | RigSource


class RigPredictor(Predictor):
    """Takes a moment of a drive: a folder of images with `rig.json`, see `perception/bev/rig.py`, or a key frame.

    A key frame of nuScenes is named by a file of it, such as that of its front camera or of its LiDAR, a moment of a
    rig by one of its images too. From Python also `predictor(images, rig)`, with files or (H, W, 3) uint8 RGB arrays
    and what `rig.json` holds, its path or a Rig. A film comes of a folder of such folders, or of the folder of
    nuScenes, where `scene` names one.

    Pictures (`--view`): 'plain', images with boxes and the view from above; 'image' and 'bev', one of both; 'depth',
    what the net sees; 'frustum', the points of its view transform in 3D; 'cell', the pixels that feed a cell; 'map',
    the layers of nuScenes' map around a key frame.

    Args:
        model: in evaluation mode, or None.
        data: config of the data set, its `type` NuScenesRig.
        scene: of nuScenes, such as 'scene-0103'; by default all of the data set's split.
        cameras: names of those that the net sees, in this order, separated by commas; by default all, or those of the
            data set of one's own rig.
        min_score: predictions below it are not drawn.
        min_map: probability from which on a cell of the map is drawn.
        reach: m around the car that the view from above shows; that of the rig, else 52.
        max_range: m from the car up to which truth counts, where that is less than officially.
        cell: place of a cell, m ahead of and left of the car's origin, such as '10,-3', for that view.

    Raises:
        ConfigError: options that cannot be.
    """

    noun = 'moment'
    views = VIEWS
    saves = ('json', 'map', 'npz')

    def __init__(self, model: nn.Module | None, data: dict, scene: str | None = None,
                 cameras: str | Sequence[str] | None = None, min_score: float = 0.3, min_map: float = 0.5,
                 reach: float | None = None, cell: str | Sequence[float] = CELL,
                 max_range: float | None = None) -> None:
        super().__init__(model, data)
        self.cell = self._place(cell)
        self.scene, self.reach = scene, reach
        if cameras is None and issubclass(data['type'], RigFolder):
            cameras = data.get('cameras')
        self.cameras = None if cameras is None else [name.strip() for name in cameras.split(',')] \
            if isinstance(cameras, str) else list(cameras)
        self.look = make_look(dict(min_score=min_score, min_map=min_map, max_range=max_range,
                                   **({} if reach is None else {'reach': reach})))
        steps = build_pipeline(data.get('pipeline', ()))
        self.pipeline = [step for step in steps if not isinstance(step, SweepDepth)]  # it needs the LiDAR
        self.bev_frame = data.get('bev_frame', 'lidar')
        self.preset = preset_with(data.get('map_preset'), data.get('map_grid'))
        self._sets: dict[tuple[Path, str], NuScenesRig] = {}
        own = getattr(model, 'bev_frame', None)
        if own is not None and own != self.bev_frame:
            raise ConfigError(f'RigPredictor: a net that finds things in the frame {own!r} with data in '
                              f'{self.bev_frame!r}, expected one of both. Give the data set bev_frame={own!r}.')

    @staticmethod
    def _place(cell: str | Sequence[float]) -> tuple[float, float]:
        try:
            ahead, left = (float(value) for value in (cell.split(',') if isinstance(cell, str) else cell))
        except (TypeError, ValueError) as error:
            raise ConfigError(f'--cell: {cell!r} came, expected two numbers with a comma, metres ahead of and left of '
                              'the car. Write --cell 10,-3.') from error
        return ahead, left

    def __call__(self, source: Source | Sequence[Any], rig: Rig | Mapping | str | Path | None = None) -> RigSample:
        """The sample of a source, or of images and their rig, with predictions, on the CPU; see `predict`."""
        if rig is None:
            return self.predict([source])[0]
        found = rig if isinstance(rig, Rig) else parse_rig(rig) if isinstance(rig, Mapping) else read_rig(rig)
        return self.predict([RigSource(found, tuple(source))])[0]

    def predict(self, sources: Sequence[Source]) -> list[RigSample]:
        """Find what is around the car at some moments.

        Args:
            sources: see the class; those with as many cameras are computed as one batch.

        Returns:
            their samples with what the net predicts, on the CPU.

        Raises:
            DataError: images or a rig that cannot be read or do not fit together.
        """
        packed = [self._packed(source) for source in sources]
        found: list[RigSample | None] = [None] * len(packed)
        for num in sorted({len(sample['inputs']['images']) for sample in packed}):
            rows = [i for i, sample in enumerate(packed) if len(sample['inputs']['images']) == num]
            batch = pseudo_collate([packed[i] for i in rows])
            with torch.no_grad():
                for i, sample in zip(rows, self.model.test_step(batch)):
                    found[i] = sample.cpu()
        return found

    def _packed(self, source: Source) -> dict:
        """A source as the net takes it."""
        sample = run_pipeline(self.pipeline, self.read(source), self.meta.get('classes'))
        if self.preset is not None:
            sample['meta']['map_bounds'] = bounds_of(self.preset)
        return pack_rig({key: value for key, value in sample.items() if key in (
            'sample_id', 'meta', 'images', 'cam_to_img', 'frame_to_cam', 'image_aug', 'bev_aug')})

    def read(self, source: Source) -> dict:
        """A source as the data set has its samples before the pipeline.

        Args:
            source: see the class.

        Raises:
            DataError: images or a rig that cannot be read or do not fit together.
        """
        if not isinstance(source, RigSource):
            if not Path(source).is_dir() and Path(source).name != NAME:
                moment = self._moment(Path(source))
                if moment is not None:
                    return self.read(moment)
                dataset, number = self._key_frame(Path(source))
                return dataset.read(number)
            folder = Path(source) if Path(source).is_dir() else Path(source).parent
            places = (place / NAME for place in (folder, folder.parent))
            source = self._rig(folder, next((file for file in places if file.is_file()), folder / NAME))
        rig = source.rig if self.cameras is None else source.rig.choose(self.cameras)
        images = source.images
        if rig is not source.rig and len(images) == len(source.rig.cameras):
            known = dict(zip((camera.name for camera in source.rig.cameras), images))
            images = tuple(known[camera.name] for camera in rig.cameras)
        pixels = read_images(rig, images, self.data.get('reduce', 1))
        files = [image if isinstance(image, (str, Path)) else '' for image in images]
        return rig_sample(rig, pixels, self.bev_frame, source.name, files)

    def _rig(self, folder: Path, file: Path) -> RigSource:
        """The source of a folder of images and its `rig.json`, of the cameras that the net sees."""
        rig = read_rig(file)
        rig = rig if self.cameras is None else rig.choose(self.cameras)
        return RigSource(rig, tuple(image_files(rig, folder)), folder.name)

    def _moment(self, file: Path) -> RigSource | None:
        """The moment that an image belongs to, where there is a `rig.json` beside it or in the folder above."""
        file = file.expanduser().absolute()
        for place in (file.parent, file.parent.parent):
            for name, rig, images in moments_of(place, self.cameras) if (place / NAME).is_file() else ():
                if file in images:
                    return RigSource(rig, images, name)
        return None

    def _key_frame(self, file: Path) -> tuple[NuScenesRig, int]:
        """The data set, and the number in it, of the key frame that a file belongs to.

        Raises:
            DataError: the file belongs to none.
        """
        path = file.expanduser().absolute()
        root = next((parent for parent in path.parents if any(parent.glob('v1.0-*/sample_data.json'))), None)
        if root is None:
            raise DataError(f'{file}: a file outside of nuScenes, expected one of its key frames, or a folder of '
                            f'images with {NAME}. Name one.')
        name = path.relative_to(root).as_posix().encode()
        for version in dict.fromkeys(VERSIONS.values()):
            if not (root / version).is_dir():
                continue
            index = read_index(root, version)
            records = np.flatnonzero(index.record_files == name)
            rows = np.flatnonzero(np.isin(index.sample_records, records).any(1)) if len(records) else ()
            if len(rows):
                return self._read_row(root, version, index.frames[int(rows[0])].scene, int(rows[0]))
        raise DataError(f'{file}: no image or sweep of a key frame, expected one that sample_data.json has. Name '
                        'another file.')

    def _read_row(self, root: Path, version: str, scene: str, row: int) -> tuple[NuScenesRig, int]:
        """The data set, and the number in it, of a row of a version's index."""
        if (root, scene) not in self._sets:
            for split in (split for split, of in VERSIONS.items() if of == version):
                options = {key: self.data[key] for key in ('bev_frame', 'motion', 'reduce', 'min_points', 'map_preset',
                                                           'map_grid') if key in self.data}
                if self.cameras or 'cameras' in self.data:
                    options['cameras'] = self.cameras or self.data['cameras']
                try:
                    self._sets[root, scene] = NuScenesRig(root, split, scenes=[scene], incomplete='keep',
                                                          training=False, **options)
                    break
                except (ConfigError, DataError) as error:
                    if not isinstance(error, ConfigError) or 'scene=' not in str(error):
                        raise
            else:
                raise DataError(f'{root / version}: {scene} is in no official split, expected a scene of nuScenes. '
                                'Name another one.')
        dataset = self._sets[root, scene]
        return dataset, next(i for i, frame in enumerate(dataset.frames) if frame.row == row)

    def sources(self, path: str | Path) -> Iterator[tuple[str, Source]]:
        """Name and source of a moment: of a key frame's file, of a folder with a rig, of each in a folder, of nuScenes.

        Raises:
            DataError: nothing there that can be read.
        """
        path = Path(path).expanduser()
        if not path.exists():
            raise DataError(f'{path}: no such file or folder, expected images with {NAME}, or nuScenes. Correct the '
                            'path.')
        if path.is_dir() and any(path.glob('v1.0-*/sample_data.json')):
            dataset = NuScenesRig(path, self._split(path), training=False, incomplete='keep',
                                  scenes=None if self.scene is None else [self.scene])
            for number, frame in enumerate(dataset.frames):
                yield f'{frame.scene}_{number:03d}', path / frame.points
        elif path.is_dir() or path.name == NAME:
            yield from self._rigs(path if path.is_dir() else path.parent)
        else:
            yield path.stem, path

    def _rigs(self, path: Path) -> Iterator[tuple[str, Source]]:
        """Name and source of each moment of a folder of images, or of such folders."""
        if (path / NAME).is_file():
            rig = read_rig(path / NAME)
            rig = rig if self.cameras is None else rig.choose(self.cameras)
            moments = find_moments(rig, path)
            if moments:
                yield from ((name, RigSource(rig, images, name)) for name, images in moments)
                return
        for folder, file in find_rigs(path):
            try:
                yield folder.name, self._rig(folder, file)
            except DataError as error:  # said where it is predicted, the others go on
                print_log(str(error), 'current', logging.WARNING)
                yield folder.name, folder

    def _split(self, root: Path) -> str:
        """The data set's split, or the first one of what is there."""
        own = self.data.get('split', 'val')
        known = [own, 'mini_val', 'val', 'test']
        return next((split for split in known if (root / VERSIONS[split]).is_dir()), own)

    def truth(self, labels: str | Path, name: str, source: Source) -> dict[str, np.ndarray]:
        """Boxes and, where the data have a preset, map of a key frame, by the names of RigSample.

        Args:
            labels: the folder of nuScenes; of a rig the folder of its boxes, see RigFolder, or one file of them.
            name, source: of `sources`.

        Raises:
            DataError: there is none of the source.
        """
        path = Path(labels).expanduser()
        if isinstance(source, RigSource) and not any(path.glob('v1.0-*')):
            rig = source.rig
            found = read_boxes(path / f'{name}.json' if path.is_dir() else path, label_map_of(self.data))
            world = np.eye(4) if rig.car_to_world is None else rig.car_to_world
            boxes = from_world(to_world_boxes(found.boxes, world), world @ rig.frame_to_car(self.bev_frame))
            return dict(boxes=boxes, labels=found.labels)
        dataset, number = self._labelled(f'--labels {labels}', name, source)
        frame = dataset.frames[number]
        to_world = frame_to_world(dataset.index, frame.row, self.bev_frame)
        truth = dataset.truth(frame.row, to_world)
        maps = {} if self.preset is None else dataset.map(frame, to_world)
        return {key: truth[key] for key in ('boxes', 'labels')} | maps

    def _labelled(self, flag: str, name: str, source: Source) -> tuple[NuScenesRig, int]:
        """The data set, and the number in it, of a source that is a labelled key frame."""
        if isinstance(source, RigSource) or Path(source).is_dir() or Path(source).name == NAME:
            raise DataError(f'{flag}: {name} is no key frame of nuScenes, expected one, whose boxes and map are known. '
                            'Draw it without.')
        dataset, number = self._key_frame(Path(source))
        if not dataset.labelled:
            raise DataError(f'{flag}: the test split has no boxes, expected a labelled one. Draw it without.')
        return dataset, number

    def save(self, form: str, folder: Path, name: str, source: Source, sample: RigSample) -> Path:
        """Write what was found at a moment.

        Args:
            form: 'json', a list of objects with `class`, `score`, `attribute` and `box` (x, y, z of the centre, l, w,
                h [m], yaw [rad], vx, vy [m/s], null where unknown) in the car's frame, x forward, y left, z up, the
                best first; 'map', the map from above as a PNG, forward up; 'npz', all that the net predicts as arrays
                in the net's frame with `frame_to_car` (4, 4).
            folder, name, source, sample: see Predictor.

        Returns:
            the file.

        Raises:
            ConfigError: another form.
            DataError: the net predicts none of it, or the file cannot be written.
        """
        check_choice('--save-as', form, self.saves)
        to_car = inverse_rigid(np.asarray(sample.ego_to_world)) @ sample.frame_to_world
        if form == 'map':
            return canvas.save_png(folder / f'{name}_map.png', self._map(name, sample))
        path = folder / f'{name}.{form}'
        with atomic_path(path, DataError) as part, open(part, 'wb') as file:
            if form == 'npz':
                np.savez(file, frame_to_car=to_car, **{
                    key: np.asarray(value) for key, value in sample.items() if key.startswith('pred_')})
            else:
                file.write(json.dumps(self._boxes(name, sample, to_car)).encode())
        return path

    def _boxes(self, name: str, sample: RigSample, to_car: np.ndarray) -> list[dict]:
        values = arrays_of(sample)
        if 'pred_boxes' not in values:
            raise DataError(f'--save-as json: the net finds no boxes at {name}, expected one that does. Take --save-as '
                            'map.')
        order = np.argsort(-values['pred_scores'], kind='stable')
        boxes, scores, labels = (values[key][order] for key in ('pred_boxes', 'pred_scores', 'pred_labels'))
        boxes = np.pad(boxes, ((0, 0), (0, 9 - boxes.shape[1])), constant_values=np.nan)
        boxes = to_world_boxes(boxes, to_car)
        attributes = guess_attributes(labels, np.nan_to_num(boxes[:, 7:]))
        rows = np.where(np.isfinite(boxes), np.round(boxes, 4), None).tolist()
        return [{'class': self.meta['classes'][label], 'score': round(float(score), 4),
                 'attribute': ATTRIBUTES[attribute] if attribute >= 0 else '', 'box': row}
                for label, score, attribute, row in zip(labels, scores, attributes, rows)]

    def _map(self, name: str, sample: RigSample) -> np.ndarray:
        values = arrays_of(sample)
        if 'pred_map' not in values:
            raise DataError(f'--save-as map: the net predicts no map at {name}, expected one that does. Take --save-as '
                            'json.')
        bounds = sample.get('map_bounds')
        look = self.look._replace(reach=float(np.abs(bounds).max()))
        return from_above([], sample.bev_frame, look, 4 * max(values['pred_map'].shape[1:]), None,
                          values['pred_map'] >= look.min_map, bounds, self.meta.get('map_classes', ()))

    def draw(self, source: Source, sample: RigSample | None = None, truth: Mapping | None = None,
             title: str = '') -> np.ndarray:
        """Images with boxes, and from above what was found, (H, W, 3) uint8 RGB; see Predictor."""
        return self.view('plain', source, sample, truth, title)

    def view(self, view: str, source: Source, sample: RigSample | None, truth: Mapping | None,
             name: str) -> np.ndarray:
        """One picture of the kind `view`; see Predictor."""
        if view == 'map':
            return self._official_map(source, truth, name)
        read, palette = self.read(source), self.meta['palette']
        packed = self._packed(source) if view in ('depth', 'frustum', 'cell') else None
        if view in ('depth', 'cell'):  # what they show is of the net's input
            views = input_views(packed['data_samples'], packed['inputs'])
        else:
            views = [CameraView(*row) for row in zip(read['meta']['cameras'], read['images'], image_matrices(
                read['cam_to_img'], read['frame_to_cam'], read['image_aug']))]
        predicted = {} if sample is None else {key: value for key, value in sample.items() if key.startswith('pred_')}
        known = dict(read['meta'], **predicted, **(truth or {}))
        if self.preset is not None:
            known['map_bounds'] = bounds_of(self.preset)
        look, name = self.look, name or read['sample_id']
        reach = source.rig.map_range if isinstance(source, RigSource) else None
        if self.reach is None and reach:
            look = look._replace(reach=reach)
        if view == 'frustum':
            images = packed['inputs']['images'].numpy().transpose(0, 2, 3, 1)
            return draw_frustum(look_through(self.model, packed), images, known, palette, look, name)
        if view == 'cell':
            to_car = inverse_rigid(known['ego_to_world']) @ known['frame_to_world']
            place = (inverse_rigid(to_car) @ [*self.cell, 0, 1])[:2]
            return draw_cell(look_through(self.model, packed), views, known, place, palette, look, name)
        kinds = ('image', 'bev') if view == 'plain' else (view,)
        return draw_rig(views, known, palette, look, name, kinds, map_names=self.meta.get('map_classes', ()),
                        classes=self.meta['classes'])

    def _official_map(self, source: Source, truth: Mapping | None, name: str) -> np.ndarray:
        """The layers of nuScenes' map around a key frame from above, with its boxes where they are asked for."""
        dataset, number = self._labelled('--view map', name, source)
        frame, reach = dataset.frames[number], self.look.reach
        middle, yaw, *_ = view_of(frame_to_world(dataset.index, frame.row, self.bev_frame))
        cells = 2 * [round(2 * reach / MAP_STEP)]
        layers = rasterise(read_map(dataset.data_root, frame.location), LAYERS, (*middle, yaw), (2 * reach, 2 * reach),
                           cells)
        boxes = {key: truth[key] for key in ('boxes', 'labels')} if truth else {}
        known = dict(boxes, map_labels=layers, map_bounds=(-reach, -reach, reach, reach), bev_frame=self.bev_frame)
        return draw_rig([], known, self.meta['palette'], self.look, f'{name}, {frame.location}', ('bev',),
                        map_names=LAYERS, classes=self.meta['classes'])

    def draw_sample(self, sample: dict, title: str = '') -> np.ndarray:
        """See Predictor; images and boxes as the augmentation left them."""
        truth, inputs = sample['data_samples'], sample['inputs']
        points = inputs['points'].numpy() if isinstance(inputs.get('points'), Tensor) else None
        return draw_rig(input_views(truth, inputs), truth, self.meta['palette'], self.look, title, points=points,
                        map_names=self.meta.get('map_classes', ()), classes=self.meta['classes'])

