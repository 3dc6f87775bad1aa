"""Pictures of classifications: images with their scores and where the nets look, all images as points by features."""
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure
from mmengine.evaluator import BaseMetric

from perception.common.metrics.confusion import confusion_matrix
from perception.common.visual import canvas
from perception.common.visual.charts import matrix_chart, save_chart
from perception.registry import METRICS
from perception.utils.errors import ConfigError, DataError
from perception.utils.optional import import_optional

SIDE = 360  # pixels of a panel


def draw_scores(image: np.ndarray, classes: Sequence[str], palette: Sequence[Sequence[int]],
                scores: np.ndarray | None = None, truth: int | None = None, title: str = '') -> np.ndarray:
    """An image beside a bar for each class.

    Args:
        image: (H, W, 3) uint8 RGB.
        classes: K names.
        palette: (K, 3) RGB.
        scores: (K,) in 0..1, None where nothing was predicted.
        truth: the true class, None where it is not known.
        title: written above.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    scale = SIDE / max(image.shape[:2])
    size = [max(1, round(scale * side)) for side in image.shape[1::-1]]
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    panel = canvas.blank(max(len(image), 36 * len(classes) + 8), SIDE)
    for k, (name, color) in enumerate(zip(classes, palette)):
        middle = 26 + 36 * k
        canvas.write(panel, f'{name}{"  (true)" if truth == k else ""}', 8, middle - 8, 14)
        if scores is not None:
            cv2.rectangle(panel, (8, middle + 3), (8 + int(scores[k] * (SIDE - 80)), middle + 13), tuple(color), -1)
            canvas.write(panel, f'{100 * scores[k]:.1f} %', SIDE - 64, middle + 7, 14)
    found = '' if scores is None else classes[int(np.argmax(scores))]
    row = canvas.beside([image, panel])
    return canvas.stacked([canvas.bar(row.shape[1], title, found), row])


def draw_cams(image: np.ndarray, maps: Mapping[str, np.ndarray], title: str = '') -> np.ndarray:
    """An image, and where each net looks for a class.

    Args:
        image: (H, W, 3) uint8 RGB, as the nets see it.
        maps: name -> (h, w) map of 0..1.
        title: written above.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    image = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    panels = [canvas.titled(image, 'image')]
    for name, strength in maps.items():
        heat = cv2.resize(strength, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
        color = cv2.applyColorMap((255 * heat.clip(0, 1)).astype(np.uint8), cv2.COLORMAP_JET)[..., ::-1]
        share = 0.55 * heat[..., None]
        panels.append(canvas.titled((image * (1 - share) + color * share).astype(np.uint8), name))
    row = canvas.beside(panels)
    return canvas.stacked([canvas.bar(row.shape[1], title, 'Grad-CAM: red speaks most for the class'), row])


def principal_plane(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features seen along the two directions in which they differ most.

    Args:
        features: (N, D).

    Returns:
        (N, 2) places, their signs chosen so that the largest deviation is positive, and (2,) shares of the variance.
    """
    centered = features - features.mean(0)
    u, s, _ = np.linalg.svd(np.pad(centered, ((0, 0), (0, max(0, 2 - centered.shape[1])))), full_matrices=False)
    places = np.zeros((len(features), 2))
    kept = min(2, len(s))
    places[:, :kept] = u[:, :kept] * s[:kept]
    places *= np.sign(places[np.abs(places).argmax(0), [0, 1]] + 1e-300)
    shares = np.zeros(2)
    shares[:kept] = s[:kept] ** 2 / max((s ** 2).sum(), 1e-300)
    return places, shares


def neighbour_plane(features: np.ndarray) -> np.ndarray:
    """Features in a plane in which neighbours stay neighbours: t-SNE, van der Maaten and Hinton, JMLR 2008.

    It begins with the principal components, so that the same features give the same picture.

    Args:
        features: (N, D).

    Returns:
        (N, 2) places; distances between groups say little.

    Raises:
        MissingDependency: scikit-learn is not there.
    """
    places = principal_plane(features)[0]
    if len(features) < 3:
        return places
    manifold = import_optional('sklearn.manifold', 't-SNE', 'pip install scikit-learn')
    start = (1e-4 / max(places[:, 0].std(), 1e-12) * places).astype(np.float32)
    near = min(30, (len(features) - 1) / 3)
    return manifold.TSNE(perplexity=near, init=start, random_state=0).fit_transform(features)


def feature_chart(features: np.ndarray, labels: np.ndarray, classes: Sequence[str], palette: Sequence[Sequence[int]],
                  title: str = '', tsne: bool = False) -> Figure:
    """Each image as a point in the plane of its features' principal components, coloured by its true class.

    Args:
        features: (N, D), compared by direction.
        labels: (N,) classes.
        classes: K names.
        palette: (K, 3) RGB.
        title: written above.
        tsne: beside them the plane of t-SNE.
    """
    features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    places, shares = principal_plane(features)
    planes = [(places, f'first component, {100 * shares[0]:.0f} % of the variance',
               f'second component, {100 * shares[1]:.0f} %')]
    if tsne:
        planes.append((neighbour_plane(features), 't-SNE: neighbours stay together', ''))
    figure = Figure((7 * len(planes), 6), layout='constrained')
    figure.suptitle(title)
    for axes, (places, below, beside) in zip(figure.subplots(1, len(planes), squeeze=False)[0], planes):
        axes.set(xlabel=below, ylabel=beside)
        for k, (name, color) in enumerate(zip(classes, palette)):
            mine = labels == k
            if mine.any():
                axes.scatter(*places[mine].T, s=22, color=np.array(color) / 255, label=f'{name} ({mine.sum()})',
                             edgecolors='white', linewidths=0.4)
        axes.legend(fontsize=9, framealpha=0.8)
    return figure


@METRICS.register_module()
class DrawClasses(BaseMetric):
    """Draws the features of all images, the matrix of confusions and the images themselves; it adds no score.

    In `out_dir`: `features.png`, `confusion.png` (of each true class the shares that are taken for each) and
    `<sample_id>.png` of the first images.

    Args:
        out_dir: folder of the pictures.
        max_images: draw only so many images in each process.
        tsne: show the features by t-SNE too, which needs scikit-learn.
        collect_device, prefix: as in mmengine.

    Raises:
        ConfigError: less than no image.
    """

    default_prefix = ''  # none; spares mmengine's warning

    def __init__(self, out_dir: str | Path, max_images: int = 24, tsne: bool = False, collect_device: str = 'cpu',
                 prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if max_images < 0:
            raise ConfigError(f'DrawClasses: max_images={max_images}, expected 0 or more. Correct it.')
        self.out_dir, self.max_images, self.tsne = Path(out_dir).expanduser(), max_images, tsne

    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Draw some images and keep what all are drawn from.

        Args:
            data_batch: its inputs hold the images.
            data_samples: for each a dict with the fields of a ClassSample.

        Raises:
            DataError: a sample without prediction.
        """
        meta = self.dataset_meta
        for number, sample in enumerate(data_samples):
            for key in ('pred_scores', 'feature'):
                if sample.get(key) is None:
                    raise DataError(f'DrawClasses: {sample.get("sample_id", "a sample")} has no {key}, expected it. '
                                    'Use a classifier that gives it.')
            scores, label = sample['pred_scores'].detach().cpu().numpy(), sample.get('label')
            label = None if label is None else int(label)
            if len(self.results) < self.max_images:
                image = data_batch['inputs']['image'][number].permute(1, 2, 0).cpu().numpy()
                picture = draw_scores(image, meta['classes'], meta['palette'], scores, label, sample['sample_id'])
                canvas.save_png(self.out_dir / f'{sample["sample_id"]}.png', picture)
            self.results.append((label, scores, sample['feature'].detach().cpu().numpy()))

    def compute_metrics(self, results: list) -> dict:
        """Draw the charts; no score comes from pictures."""
        known = [part for part in results if part[0] is not None]
        if known:
            labels, meta = np.array([label for label, *_ in known]), self.dataset_meta
            predicted, classes = np.array([scores.argmax() for _, scores, _ in known]), meta['classes']
            features = np.stack([feature for *_, feature in known]).astype(np.float64)
            chart = feature_chart(features, labels, classes, meta['palette'], 'Features of the net', self.tsne)
            save_chart(self.out_dir / 'features', chart, ('.png',))
            counts = confusion_matrix(predicted, labels, len(classes)).T
            true = counts.sum(1)
            shares = counts / np.where(true > 0, true, np.nan)[:, None]
            chart = matrix_chart(
                shares, classes, classes, 'Confusion: what the images of each true class are predicted as [%]',
                [f'{number:,}' for number in true], ('true class', 'predicted as', 'images'))
            save_chart(self.out_dir / 'confusion', chart, ('.png',))
        return {}
