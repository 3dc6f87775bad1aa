"""Labels scans with a trained net and draws them."""
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn

from perception.common.predictor import Found, Predictor
from perception.common.structures import PointSegSample
from perception.common.visual.points import show as show_points
from perception.common.visual.recording import Recording
from perception.lidarseg.datasets.base import Scan
from perception.lidarseg.draw import draw_scan, error_colors, height_colors, label_colors
from perception.lidarseg.film import CAMERAS, Film
from perception.utils.errors import DataError


class LidarPredictor(Predictor):
    """Takes scans: a file in the format of the data set, or an (N, 4) array or tensor of x, y, z [m] and intensity.

    The views 'follow' and 'fixed' are frames of a film of the drive, one after the other, see `film.py`; 'fixed' needs
    poses that the data set can tell.

    Args:
        model: in evaluation mode, or None.
        data: config of the data set, its `type` a class derived from LidarScans.
    """

    noun = 'scan'
    views = ('plain', *CAMERAS)

    def __init__(self, model: nn.Module | None, data: dict) -> None:
        super().__init__(model, data)
        self.scans = data['type']  # knows the format of files and what else nets of its data set take
        self._film, self._rows = None, {}  # of a film: the number of each scan

    def predict(self, sources: Sequence[Scan]) -> list[PointSegSample]:
        """Label every point of some scans.

        To a net for several scans, those before the file are given too, where it lies in a sequence in the official
        layout.

        Args:
            sources: scans, N may be 0.

        Returns:
            their samples with `pred_labels` (N,) int64 train ids on the CPU, `sample_id` and `num_points`.

        Raises:
            DataError: a scan that cannot be read, has another shape or is not finite.
        """
        batch = pseudo_collate([self._input(source) for source in sources])
        with torch.no_grad():
            return [sample.cpu() for sample in self.model.test_step(batch)]

    def _input(self, source: Scan) -> dict:
        """A scan as the net takes it."""
        points = self.points(source)
        meta = dict(sample_id='scan', points_path='', num_points=len(points))
        if isinstance(source, (str, Path)):
            meta.update(sample_id=Path(source).stem, points_path=str(source))
        past = self.scans.past_scans_of(source, self.data)
        if past:
            meta['origin_len'], points = len(points), np.concatenate([points, *past])
        return dict(inputs=dict(points=torch.from_numpy(points)), data_samples=PointSegSample(metainfo=meta))

    def points(self, source: Scan) -> np.ndarray:
        """Points (N, 4) float32 of a scan.

        Raises:
            DataError: an unreadable file, an array of another shape.
        """
        if isinstance(source, (str, Path)):
            return np.ascontiguousarray(self.scans.read_scan(source))
        points = source.detach().cpu().numpy() if isinstance(source, Tensor) else np.asarray(source)
        if points.ndim != 2 or points.shape[1] != 4:
            raise DataError(f'predict: an array of shape {points.shape}, expected (N, 4): x, y, z, intensity. Select '
                            'or add these columns first.')
        return np.ascontiguousarray(points, np.float32)

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
        meta = self.meta
        return draw_scan(self.points(source), meta['classes'], meta['palette'], _labels(sample), truth,
                         title or (sample.sample_id if sample is not None else ''), forward=meta.get('forward', 0.0))

    def sources(self, path: str | Path) -> Iterator[tuple[str, Path]]:
        """Name and file of the scan, or of each scan in a folder."""
        for file in self.scans.find_scans(path):
            yield file.stem, file

    def truth(self, labels: str | Path, name: str, source: Path) -> np.ndarray:
        """True train ids (N,) of a scan, 255 = ignored; `labels` is their file, or the folder of all.

        Raises:
            ConfigError: labels of this data set do not stand in one file for each scan.
            DataError: they cannot be read or do not fit the scan.
        """
        if not self.scans.LABEL_SUFFIX:
            return super().truth(labels, name, source)
        path = Path(labels).expanduser()
        path = path / f'{name}{self.scans.LABEL_SUFFIX}' if path.is_dir() else path
        return self.scans.scan_labels(path, len(self.points(source)))

    def begin(self, path: str | Path, view: str) -> None:
        """See Predictor; a film begins anew.

        Raises:
            DataError: a fixed camera without poses, or no scan.
        """
        if view in CAMERAS:
            files, meta = self.scans.find_scans(path), self.meta
            self._film = Film(view, self.scans.scan_poses(files), meta['classes'], meta['palette'],
                              meta.get('forward', 0.0))
            self._rows = {file: row for row, file in enumerate(files)}

    def view(self, view: str, source: Path, sample: PointSegSample | None, truth: np.ndarray | None,
             name: str) -> np.ndarray:
        """The views of a scan, or the next frame of the film."""
        if view == 'plain':
            return self.draw(source, sample, truth, source.name)
        row = self._rows[source]
        title = f'{source.parent.parent.name} / {source.name}   {row + 1} of {len(self._rows)}'
        return self._film.frame(row, self.points(source), _labels(sample), truth, title)

    def log(self, recording: Recording, found: Found) -> None:
        """Put a scan into a recording: its points by height, prediction, truth, and with both the errors."""
        points, meta, pred_labels = self.points(found.source), self.meta, _labels(found.sample)
        recording.points('scan/points', points, height_colors(points))
        for name, labels in (('prediction', pred_labels), ('truth', found.truth)):
            if labels is not None:
                recording.points(f'scan/{name}', points, label_colors(labels, meta['palette']))
        if pred_labels is not None and found.truth is not None:
            recording.points('scan/errors', points, error_colors(pred_labels, found.truth, len(meta['classes'])))

    def show(self, picture: np.ndarray, source: Path, sample: PointSegSample | None, truth: np.ndarray | None,
             name: str) -> bool:
        """Open a window with the points in space; False where there is no display."""
        points, seen = self.points(source), truth if sample is None else _labels(sample)
        colors = height_colors(points) if seen is None else label_colors(seen, self.meta['palette'])
        return show_points(points, colors, source.name)


def _labels(sample: PointSegSample | None) -> np.ndarray | None:
    """Predicted train ids (N,) of a sample."""
    return None if sample is None else sample.pred_labels.numpy()
