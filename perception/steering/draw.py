"""Pictures of driving: a steering wheel, the path on the road, the angle over time; films of whole recordings.

Angles are of the steering wheel in degrees, positive to the left. How a picture is taken and how a car turns is what
the data set says of itself: `camera` holds the arguments of View, `car` those of Car.
"""
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from mmengine.evaluator import BaseMetric

from perception.common.formats.images import read_image
from perception.common.visual import canvas
from perception.common.visual.video import write_video
from perception.registry import METRICS
from perception.steering.metrics import array_of
from perception.utils.checks import check_positive

PREDICTION, TRUTH, ERROR = (60, 225, 140), (255, 165, 20), (255, 85, 200)
SUBPIXEL = 4  # bits
REACH, STEP = 35.0, 0.5  # m of a path, and between its points
HALF_WIDTH = 0.9  # m of a car
NEAR = 0.5  # m before the camera, nearer points are not drawn
FAR = 1e4  # pixels; what lies farther out is drawn there


class View(NamedTuple):
    """How a picture is taken.

    Attributes:
        width, height: pixels of an official picture.
        focal: pixels.
        height_above_ground: m.
        pitch: deg, negative when the camera looks down.
        forward: m before the rear axle's middle, about which a car turns.
    """
    width: int = 640
    height: int = 480
    focal: float = 480.0
    height_above_ground: float = 1.35
    pitch: float = -2.0
    forward: float = 0.6

    def project(self, places: np.ndarray, size: Sequence[int]) -> np.ndarray:
        """Pixels (P, 2) u, v of places (P, 2) on the ground, x forward and y to the left [m], in a picture.

        Args:
            places: at least `NEAR` before the camera.
            size: (H, W) of the picture, which need not have the official proportions.
        """
        tilt = np.radians(self.pitch)
        x, y = places[:, 0] - self.forward, places[:, 1]
        depth = x * np.cos(tilt) - self.height_above_ground * np.sin(tilt)
        down = x * np.sin(tilt) + self.height_above_ground * np.cos(tilt)
        uv = np.stack([-y, down], 1) / np.maximum(depth, 1e-3)[:, None] * self.focal
        uv += (self.width / 2, self.height / 2)
        return uv * (size[1] / self.width, size[0] / self.height) - 0.5


class Car(NamedTuple):
    """How a car turns.

    Attributes:
        wheelbase: m.
        ratio: angle of the steering wheel over that of the road wheels.
        understeer: s^2/m^2.
    """
    wheelbase: float = 2.85
    ratio: float = 14.8
    understeer: float = 0.0025

    def path(self, angle: float, speed: float = 0.0, reach: float = REACH) -> np.ndarray:
        """Places (P, 3) x, y [m] and heading [rad] of the middle of the rear axle, if the wheel is held.

        Args:
            angle: of the wheel [deg].
            speed: m/s, NaN where not known.
            reach: m along the path.
        """
        faster = 1 + self.understeer * (0.0 if np.isnan(speed) else speed) ** 2
        bend = np.tan(np.radians(angle) / self.ratio / faster) / self.wheelbase
        along = np.arange(0, reach + STEP, STEP)
        turned = along * bend
        # sin(a) / a and (1 - cos(a)) / a without a division by zero
        x = along * np.sinc(turned / np.pi)
        y = along * np.sinc(turned / 2 / np.pi) * np.sin(turned / 2)
        return np.stack([x, y, turned], 1)


def draw_path(image: np.ndarray, angle: float, color: Sequence[int], view: View, car: Car, speed: float = np.nan,
              filled: bool = True) -> None:
    """Draw where the wheels go if the steering wheel is held, in place.

    Args:
        image: (H, W, 3) uint8 RGB.
        angle: of the wheel [deg]; nothing is drawn where it is not known.
        color: RGB.
        view, car: of the data set.
        speed: m/s, NaN where not known.
        filled: a faint strip as wide as a car beside its borders.
    """
    if not np.isfinite(angle):
        return
    path = car.path(float(np.clip(angle, -500, 500)), speed)
    path = path[(path[:, 0] > view.forward + NEAR) & (np.abs(path[:, 2]) < np.pi / 2)]
    if len(path) < 2:
        return
    aside = np.stack([-np.sin(path[:, 2]), np.cos(path[:, 2])], 1) * HALF_WIDTH
    sides = [view.project(path[:, :2] + sign * aside, image.shape[:2]) for sign in (1, -1)]
    points = [np.round(np.clip(side, -FAR, FAR) * (1 << SUBPIXEL)).astype(np.int32) for side in sides]
    if filled:
        layer = image.copy()
        cv2.fillPoly(layer, [np.concatenate([points[0], points[1][::-1]])], color, cv2.LINE_AA, SUBPIXEL)
        image[:] = cv2.addWeighted(layer, 0.35, image, 0.65, 0)
    width = max(image.shape[1] // 320, 1)
    cv2.polylines(image, [side[:, None] for side in points], False, color, width, cv2.LINE_AA, SUBPIXEL)


def draw_wheel(size: int, prediction: float = np.nan, truth: float = np.nan) -> np.ndarray:
    """A steering wheel, turned as predicted, with the true position beside it.

    Args:
        size: of the picture in pixels.
        prediction, truth: angles [deg], NaN where not known.

    Returns:
        (size, size, 3) uint8 RGB.
    """
    image, middle, radius = canvas.blank(size, size), size / 2, 0.4 * size

    def at(angle: float, share: float) -> tuple[int, int]:
        turned = np.radians(angle)  # counter-clockwise from the top
        place = middle + radius * share * np.array([-np.sin(turned), -np.cos(turned)])
        return tuple(int(round(n * (1 << SUBPIXEL))) for n in place)

    def ring(angle: float, color: Sequence[int], share: float, width: int) -> None:
        cv2.circle(image, at(0, 0), int(radius * share * (1 << SUBPIXEL)), color, width, cv2.LINE_AA, SUBPIXEL)
        cv2.line(image, at(angle, share - .12), at(angle, share + .12), color, 2 * width, cv2.LINE_AA, SUBPIXEL)

    shown, width = prediction if np.isfinite(prediction) else truth, max(size // 40, 1)
    if np.isfinite(truth):
        ring(truth, TRUTH, 1.12, max(width // 2, 1))
    if np.isfinite(shown):
        color = PREDICTION if np.isfinite(prediction) else TRUTH
        for spoke in (90, 180, 270):
            cv2.line(image, at(0, 0), at(shown + spoke, 0.9), color, width, cv2.LINE_AA, SUBPIXEL)
        ring(shown, color, 0.92, 2 * width)
        cv2.circle(image, at(0, 0), int(.16 * radius * (1 << SUBPIXEL)), color, -1, cv2.LINE_AA, SUBPIXEL)
    return image


def draw_curves(width: int, height: int, times: np.ndarray, prediction: np.ndarray, truth: np.ndarray,
                span: float = 10.0, limit: float | None = None) -> np.ndarray:
    """The angle over the last seconds, and below it the error where both angles are known; words tell the colours.

    Args:
        width, height: of the picture in pixels.
        times: (N,) [s] up to now, in order.
        prediction, truth: (N,) angles [deg], NaN where not known.
        span: s that are shown.
        limit: deg at the borders of the picture; by default as far as the angles go.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    image, size = canvas.blank(height, width), max(canvas.text_size(width) - 3, 11)
    error = np.asarray(prediction, np.float64) - truth
    upper = round(.62 * height) if np.isfinite(error).any() else height
    known = np.concatenate([[10.0], *(np.abs(x[np.isfinite(x)]) for x in (np.asarray(prediction), np.asarray(truth)))])
    fields = [(0, upper, 'angle', ((truth, TRUTH, 'true'), (prediction, PREDICTION, 'predicted')),
               limit or 1.1 * known.max())]
    if upper < height:
        fields.append((upper, height, 'error', ((error, ERROR, 'predicted - true'),),
                       max(5.0, 1.1 * np.nanmax(np.abs(error)))))
    for top, bottom, name, lines, most in fields:
        middle, half = (top + bottom) / 2, (bottom - top) / 2 - 3
        cv2.line(image, (0, round(middle)), (width, round(middle)), canvas.FAINT, 1)
        cv2.line(image, (0, top), (width, top), canvas.FAINT, 1)
        for values, color, _ in lines:
            u = (1 - (times[-1] - times) / span) * (width - 4)
            v = middle - np.clip(np.asarray(values) / most, -1, 1) * half
            good = np.isfinite(v) & (u >= -width)
            for piece in np.split(np.arange(len(v)), np.flatnonzero(np.diff(good.astype(int))) + 1):
                if good[piece].all():
                    points = np.round(np.stack([u[piece], v[piece]], 1) * (1 << SUBPIXEL)).astype(np.int32)
                    cv2.polylines(image, [points[:, None]], False, color, max(height // 110, 1), cv2.LINE_AA, SUBPIXEL)
        words, left = [(word, color) for values, color, word in lines if np.isfinite(values).any()], 6
        for text, color in ((f'{name}, within {most:.0f} deg', canvas.FAINT), *words):
            canvas.write(image, text, left, top + size, size, color)
            left += canvas.text_width(text, size) + size
    return image


def draw_actions(width: int, height: int, probs: np.ndarray | None, names: Sequence[str], truth: int = 255,
                 palette: Sequence[Sequence[int]] | None = None) -> np.ndarray:
    """Probabilities of the actions as bars; the true one is framed.

    Args:
        width, height: of the picture in pixels.
        probs: (A,), None where not known.
        names: A names.
        truth: the true action, 255 where it is not known.
        palette: A RGB colours.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    image, row = canvas.blank(height, width), height / len(names)
    size = int(np.clip(row * .45, 10, 24))
    left = 14 + max(canvas.text_width(name, size) for name in names)
    for k, name in enumerate(names):
        top, bottom = round(row * (k + .2)), round(row * (k + .8))
        canvas.write(image, name, 6, (top + bottom) // 2, size, canvas.INK if k == truth else canvas.FAINT)
        if probs is not None:
            color = PREDICTION if palette is None else tuple(int(c) for c in palette[k])
            cv2.rectangle(image, (left, top), (left + round(float(probs[k]) * (width - left - 8)), bottom), color, -1)
        if k == truth:
            cv2.rectangle(image, (left, top), (width - 8, bottom), TRUTH, 2)
    return image


@dataclass(frozen=True)
class Moment:
    """What is drawn of a frame: its time [s], angles [deg] and speeds [m/s], NaN where not known, and actions."""
    time: float
    prediction: float = np.nan
    truth: float = np.nan
    speed: float = np.nan
    pred_speed: float = np.nan
    probs: np.ndarray | None = None
    action: int = 255


def draw_moment(image: np.ndarray, past: Sequence[Moment], meta: Mapping, title: str = '',
                width: int = 960) -> np.ndarray:
    """The picture of a film: the road with both paths, below it the wheel and the curves, or the actions.

    Args:
        image: (H, W, 3) uint8 RGB of the frame, of any size; a square one gets the proportions of the camera back.
        past: moments of the recording up to this one.
        meta: of the data set: `camera`, `car`, and for actions `classes` and `palette`.
        title: written above it.
        width: of the picture in pixels.

    Returns:
        (H, width, 3) uint8 RGB.
    """
    view, car, now = View(**meta.get('camera', {})), Car(**meta.get('car', {})), past[-1]
    rows, columns = (view.height, view.width) if image.shape[0] == image.shape[1] else image.shape[:2]
    height = round(width * rows / columns)
    road = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    speed = now.speed if np.isfinite(now.speed) else now.pred_speed  # the faster, the less a held wheel turns a car
    draw_path(road, now.prediction, PREDICTION, view, car, speed)
    draw_path(road, now.truth, TRUTH, view, car, speed, filled=False)
    low = width // 5
    if now.probs is not None or now.action != 255:
        below = draw_actions(width, low, now.probs, meta['classes'], now.action, meta.get('palette'))
        score = ''
    else:
        times, predicted, true = (np.array([getattr(m, key) for m in past[-1000:]])
                                  for key in ('time', 'prediction', 'truth'))
        below = np.concatenate([draw_wheel(low, now.prediction, now.truth),
                                draw_curves(width - low, low, times, predicted, true)], 1)
        shown = (('predicted', now.prediction), ('true', now.truth))
        score = ', '.join(f'{name} {angle:+.1f} deg' for name, angle in shown if np.isfinite(angle))
    if np.isfinite(now.speed):
        score += f'{", " * bool(score)}{now.speed:.1f} m/s'
    return canvas.stacked([canvas.bar(width, title, score), road, below], gap=0)


def moments_of(sample: Mapping) -> list[Moment]:
    """The frames of a SteeringSample, or of its dict, as they are drawn."""
    def column(key: str, k: int) -> np.ndarray:
        return array_of(sample, key, 'drawing')[:, k] if sample.get(key) is not None else np.full(count, np.nan)

    times = sample['timestamps']
    count = len(times)
    probs = array_of(sample, 'pred_actions', 'drawing') if sample.get('pred_actions') is not None else [None] * count
    actions = array_of(sample, 'actions', 'drawing') if sample.get('actions') is not None else np.full(count, 255)
    speed = column('targets', 2)
    return [Moment(*row[:5], row[5], int(row[6])) for row in zip(
        times, column('pred_targets', 0).tolist(), column('targets', 0).tolist(), speed.tolist(),
        column('pred_targets', 2).tolist(), probs, actions)]


@METRICS.register_module()
class DrawSteering(BaseMetric):
    """Draws each recording that is evaluated as a film; it stands beside the metrics and adds no score.

    Args:
        out_dir: folder of the films, `<recording>.mp4`.
        max_frames: of each recording.
        fps: frames a second; as they were taken by default.
        width: of the pictures in pixels.
        collect_device, prefix: as in mmengine.
    """

    default_prefix = ''  # none; spares mmengine's warning

    def __init__(self, out_dir: str | Path, max_frames: int = 600, fps: float | None = None, width: int = 960,
                 collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        check_positive('DrawSteering', max_frames=max_frames, width=width, fps=1 if fps is None else fps)
        self.out_dir = Path(out_dir).expanduser()
        self.max_frames, self.fps, self.width = max_frames, fps, width

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep what is drawn of some clips.

        Args:
            data_batch: `inputs.clip`, T frames (T, 3, H, W) of each, for frames that are no files.
            data_samples: for each clip the dict of a SteeringSample.
        """
        for clip, sample in zip(data_batch['inputs']['clip'], data_samples):
            paths, rows = sample.get('image_paths') or [], []
            for k, (moment, scored) in enumerate(zip(moments_of(sample), array_of(sample, 'scored', 'DrawSteering'))):
                if scored:
                    source: Any = paths[k] if paths else clip[k].permute(1, 2, 0).cpu().numpy()
                    rows.append((moment, sample['frames'][k], source))
            self.results.append((sample['recording'], rows))  # one of each clip: mmengine cuts off what is more

    def compute_metrics(self, results: list[tuple]) -> dict:
        """Draw the films."""
        recordings: dict[str, dict[float, tuple]] = {}
        for name, rows in results:
            recordings.setdefault(name, {}).update({row[0].time: row for row in rows})
        for name, rows in recordings.items():
            rows = [rows[time] for time in sorted(rows)][:self.max_frames]
            gaps = np.diff([moment.time for moment, _, _ in rows])
            rate = self.fps or (float(np.clip(1 / np.median(gaps), 1, 60)) if len(gaps) else 10.0)
            write_video(self.out_dir / f'{name}.mp4', self._frames(name, rows), rate)
        return {}

    def _frames(self, name: str, rows: list[tuple]) -> Iterator[np.ndarray]:
        past = []
        for moment, frame, source in rows:
            past.append(moment)
            image = read_image(source) if isinstance(source, str) else source
            yield draw_moment(image, past, self.dataset_meta or {}, f'{name}/{frame}', self.width)
