"""Labels scans with a trained net and draws them."""
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn

from perception.common.dataset import build_pipeline, run_pipeline
from perception.common.formats.point_files import is_recording, read_recording, write_ply
from perception.common.formats.points import Cloud, scan_name
from perception.common.predictor import Found, Predictor
from perception.common.structures import PointSegSample
from perception.common.visual.points import show as show_points
from perception.common.visual.recording import Recording
from perception.lidarseg.datasets.base import Scan, pack, rows_of, spread_rows
from perception.lidarseg.draw import draw_scan, error_colors, height_colors, label_colors
from perception.lidarseg.film import CAMERAS, Film
from perception.lidarseg.voting import member_probs
from perception.utils.checkpoint import atomic_path
from perception.utils.checks import check_choice
from perception.utils.errors import DataError


class LidarPredictor(Predictor):
    """Takes scans: a file of any format of `perception/common/formats/point_files.py`, or an array of points.

    An array or tensor is (N, 4) of x, y, z [m] and intensity, (N, C) of the named `columns`, or structured. There is a
    prediction for each row, 255 where a point was left out, by `invalid='drop'` or by the data set's pipeline
    (WithinRange).

    The views 'follow' and 'fixed' are frames of a film of the drive, one after the other, see `film.py`; 'fixed' needs
    poses that the data set can tell.

    Args:
        model: in evaluation mode, or None.
        data: config of the data set, its `type` a class derived from LidarScans.
        columns, intensity_scale, missing_intensity, unit, forward, height, invalid, topic, origin: how scans of another
            sensor become such as the net was trained on, see PointReader; by default as the data set reads its own.
    """

    noun = 'scan'
    views = ('plain', *CAMERAS)
    saves = ('label', 'npy', 'ply', 'probabilities')

    def __init__(self, model: nn.Module | None, data: dict, columns: str | Sequence[str] | None = None,
                 intensity_scale: float | str | None = None, missing_intensity: float | None = None,
                 unit: float | None = None, forward: str | None = None, height: float | None = None,
                 invalid: str | None = None, topic: str | None = None,
                 origin: str | Sequence[float] | None = None) -> None:
        super().__init__(model, data)
        self.scans = data['type']  # knows the format of files and what else nets of its data set take
        options = dict(columns=columns, intensity_scale=intensity_scale, missing_intensity=missing_intensity, unit=unit,
                       forward=forward, height=height, invalid=invalid, topic=topic, origin=origin)
        self.reader = self.scans.reader(data, **{name: value for name, value in options.items() if value is not None})
        self.pipeline = build_pipeline(data.get('pipeline', ()))
        self._film, self._rows, self._frame = None, {}, 0  # of a film: the number of each scan, and of the next one

    def predict(self, sources: Sequence[Scan]) -> list[PointSegSample]:
        """Label every point of some scans.

        To a net for several scans, those before the file are given too, where it lies in a sequence in the official
        layout.

        Args:
            sources: scans, N may be 0.

        Returns:
            their samples with `pred_labels` (N,) int64 train ids on the CPU, `sample_id` and `num_points`; where
            points were left out also `kept` (M,), the rows that are there.

        Raises:
            DataError: a scan that cannot be read, has another shape or is not finite.
        """
        batch = pseudo_collate([self._input(source) for source in sources])
        with torch.no_grad():
            return [sample.cpu() for sample in self.model.test_step(batch)]

    def _input(self, source: Scan) -> dict:
        """A scan as the net takes it."""
        past = self.scans.past_scans_of(source, self.data, self.reader)
        return pack(self._sample(source, past), str(source) if isinstance(source, (str, Path)) else '')

    def cloud(self, source: Scan) -> Cloud:
        """A scan as the net takes it: points (N, 4) float32, and which rows of the source they are.

        Raises:
            DataError: an unreadable file, an array of another shape.
        """
        sample = self._sample(source)
        return Cloud(sample['points'], sample.get('kept'), sample['num_points'], sample['fields'])

    def _sample(self, source: Scan, past: Sequence[np.ndarray] = ()) -> dict:
        """A scan, and those before it, after the pipeline that samples of the data set pass when the net is tested."""
        if isinstance(source, (str, Path)):
            cloud, name = self.scans.read_scan(source, self.reader), scan_name(Path(source))
        else:
            cloud = self.reader.read(source.detach().cpu().numpy() if isinstance(source, Tensor) else source)
            name = 'scan'
        sample = dict(points=cloud.points, fields=cloud.fields, num_points=cloud.num_rows, sample_id=name)
        if cloud.kept is not None:
            sample['kept'] = cloud.kept
        if past:
            sample.update(origin_len=len(cloud.points), points=np.concatenate([cloud.points, *past]))
        return run_pipeline(self.pipeline, sample, self.meta.get('classes'))

    def points(self, source: Scan) -> np.ndarray:
        """Points (N, 4) float32 of a scan."""
        return self.cloud(source).points

    def save(self, form: str, folder: Path, name: str, source: Scan, sample: PointSegSample) -> Path:
        """Write the labels of a scan, one for each row of it.

        Args:
            form: 'label', ids (N,) uint32 as the data set's label files have them (train ids where it has none of
                its own); 'npy', train ids (N,) uint8; 'ply', the points as the net sees them, with their labels, in
                the colours of their classes; 'probabilities', (N, C) float32, in `<name>_probabilities.npy`. A row
                that was left out has the data set's id for no class, 255, no vertex, or zeros.
            folder, name, source, sample: see Predictor.

        Returns:
            the file.

        Raises:
            ConfigError: another form.
            DataError: the file cannot be written.
            MissingDependency: plyfile is absent.
        """
        check_choice('--save-as', form, self.saves)
        labels = sample.pred_labels.numpy()
        path = folder / f'{name}{dict(probabilities="_probabilities.npy").get(form, f".{form}")}'
        with atomic_path(path, DataError) as part, open(part, 'wb') as file:
            if form == 'label':
                raw = self.scans.raw_ids(self.data)
                file.write((labels if raw is None else raw[labels]).astype('<u4').tobytes())
            elif form == 'npy':
                np.save(file, labels.astype(np.uint8))
            elif form == 'ply':
                seen = rows_of(labels, sample)
                write_ply(file, self.points(source), seen, label_colors(seen, self.meta['palette']))
            else:
                np.save(file, self.probabilities(source))
        return path

    def probabilities(self, source: Scan) -> np.ndarray:
        """Probabilities (N, C) float32 of the classes; what is missing to 1 belongs to "unlabelled" of nets that have
        it. The net runs once more; rows of points that were left out are zeros.
        """
        cloud, data = self.cloud(source), self._input(source)
        model, sample = self.model, data['data_samples']
        with torch.no_grad():
            points = data['inputs']['points'].to(next(model.parameters()).device)
            probs = member_probs(model, points)[:len(cloud.points)].cpu()
        return spread_rows(probs, sample, 0).numpy()

    def draw(self, source: Scan, sample: PointSegSample | None = None, truth: np.ndarray | None = None,
             title: str = '') -> np.ndarray:
        """Views of a scan from behind and from above, of the prediction, the truth, and with both of the errors.

        Args:
            source: what the predictor was called with.
            sample: what it returned.
            truth: (N,) true train ids, 255 = ignored.
            title: written above it; the name of the sample by default.

        Returns:
            (H, W, 3) uint8 RGB.
        """
        meta, cloud = self.meta, self.cloud(source)
        labels, truth = (_kept(values, cloud) for values in (_labels(sample), truth))
        return draw_scan(cloud.points, meta['classes'], meta['palette'], labels, truth,
                         title or (sample.sample_id if sample is not None else ''), forward=meta.get('forward', 0.0))

    def sources(self, path: str | Path) -> Iterator[tuple[str, Scan]]:
        """Name and file of the scan, or of each scan in a folder; of a ROS recording name and points of each cloud."""
        for file in self.scans.find_scans(path):
            if is_recording(file):
                yield from read_recording(file, self.reader.topic)
            else:
                yield scan_name(file), file

    def truth(self, labels: str | Path, name: str, source: Scan) -> np.ndarray:
        """True train ids (N,) of a scan, 255 = ignored; `labels` is their file, or the folder of all.

        Raises:
            ConfigError: labels of this data set do not stand in one file for each scan.
            DataError: they cannot be read or do not fit the scan.
        """
        suffix = self.scans.label_suffix(self.data)
        if not suffix:
            return super().truth(labels, name, source)
        path = Path(labels).expanduser()
        path = path / f'{name}{suffix}' if path.is_dir() else path
        return self.scans.scan_labels(path, self.cloud(source).num_rows, self.data)

    def begin(self, path: str | Path, view: str) -> None:
        """See Predictor; a film begins anew.

        Raises:
            DataError: a fixed camera without poses, or no scan.
        """
        if view in CAMERAS:
            files, meta = self.scans.find_scans(path), self.meta
            plain = not any(map(is_recording, files))
            known = plain and not isinstance(self.reader.origin, str)  # else each scan has an origin of its own
            poses = self.scans.scan_poses(files, self.data) if known else None
            if poses is not None:
                poses = poses @ np.linalg.inv(self.reader.to_frame)  # of the points as the reader turns them
            elif view == 'fixed':
                raise DataError(f'--view fixed: {path}: nothing tells the poses of these scans, expected '
                                f'{self.scans.POSES}. Take --view follow, which needs none.')
            self._film = Film(view, poses, meta['classes'], meta['palette'], meta.get('forward', 0.0),
                              self.scans.FRAME.height, meta.get('ahead', 0.0))
            self._rows, self._frame = {file: row for row, file in enumerate(files)} if plain else {}, 0

    def view(self, view: str, source: Scan, sample: PointSegSample | None, truth: np.ndarray | None,
             name: str) -> np.ndarray:
        """The views of a scan, or the next frame of the film."""
        file = source if isinstance(source, Path) else Path(name)
        if view == 'plain':
            return self.draw(source, sample, truth, file.name)
        row = self._rows.get(source, self._frame) if isinstance(source, Path) else self._frame
        self._frame = row + 1
        count = f' of {len(self._rows)}' if self._rows else ''
        cloud = self.cloud(source)
        labels, truth = (_kept(values, cloud) for values in (_labels(sample), truth))
        title = f'{file.absolute().parent.parent.name} / {file.name}   {row + 1}{count}'
        return self._film.frame(row, cloud.points, labels, truth, title)

    def log(self, recording: Recording, found: Found) -> None:
        """Put a scan into a recording: its points by height, prediction, truth, and with both the errors."""
        cloud, meta = self.cloud(found.source), self.meta
        labels, truth = (_kept(values, cloud) for values in (_labels(found.sample), found.truth))
        recording.points('scan/points', cloud.points, height_colors(cloud.points))
        for name, ids in (('prediction', labels), ('truth', truth)):
            if ids is not None:
                recording.points(f'scan/{name}', cloud.points, label_colors(ids, meta['palette']))
        if labels is not None and truth is not None:
            recording.points('scan/errors', cloud.points, error_colors(labels, truth, len(meta['classes'])))

    def show(self, picture: np.ndarray, source: Scan, sample: PointSegSample | None, truth: np.ndarray | None,
             name: str) -> bool:
        """Open a window with the points in space; False where there is no display."""
        cloud = self.cloud(source)
        points, seen = cloud.points, _kept(truth if sample is None else _labels(sample), cloud)
        colors = height_colors(points) if seen is None else label_colors(seen, self.meta['palette'])
        return show_points(points, colors, source.name if isinstance(source, Path) else name)

    def draw_sample(self, sample: dict, title: str = '') -> np.ndarray:
        """See Predictor; points of other scans that a net takes too are not drawn."""
        points, labels, meta = sample['inputs']['points'].numpy(), sample['data_samples'].get('labels'), self.meta
        labels = None if labels is None else labels.numpy()
        return draw_scan(points if labels is None else points[:len(labels)], meta['classes'], meta['palette'], None,
                         labels, title, forward=meta.get('forward', 0.0))


def _labels(sample: PointSegSample | None) -> np.ndarray | None:
    """Predicted train ids (N,) of a sample."""
    return None if sample is None else sample.pred_labels.numpy()


def _kept(labels: np.ndarray | None, cloud: Cloud) -> np.ndarray | None:
    """Of labels of all rows of a scan those of its points."""
    return labels if labels is None or cloud.kept is None or len(labels) != cloud.num_rows else labels[cloud.kept]
