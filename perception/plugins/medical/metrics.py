"""Scores of classifiers as scikit-learn and imbalanced-learn define them.

Shapes: N samples, K classes.
"""
from collections.abc import Sequence

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from scipy.stats import rankdata

from perception.common.metrics.confusion import confusion_matrix
from perception.registry import METRICS
from perception.utils.errors import DataError


def decision_scores(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> dict[str, float]:
    """What follows from decisions alone.

    Args:
        predicted: (N,) classes.
        labels: (N,) true ones.
        num_classes: K.

    Returns:
        `ACC`; `BACC`, mean recall of the classes that are there; means over the classes that are there or predicted:
        `precision`, `recall`, `F1`, `specificity`, 0 where nothing is divided; `kappa`, Cohen's with quadratic weights
        of the distance between classes, NaN where all are of one class and found.

    Raises:
        DataError: different numbers of both, or a number that is no class.
    """
    counts = confusion_matrix(predicted, labels, num_classes).T.astype(np.float64)  # rows are true
    hits, true, guessed, total = counts.diagonal(), counts.sum(1), counts.sum(0), counts.sum()
    seen = true + guessed > 0

    def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)

    precision, recall = share(hits, guessed), share(hits, true)
    f1 = share(2 * hits, true + guessed)
    specificity = share(total - true - guessed + hits, total - true)
    weights = np.subtract.outer(np.arange(num_classes), np.arange(num_classes)).astype(np.float64) ** 2
    expected = (weights * np.outer(true, guessed)).sum() / total
    kappa = 1 - (weights * counts).sum() / expected if expected else np.nan
    return dict(ACC=hits.sum() / total, BACC=recall[true > 0].mean(), precision=precision[seen].mean(),
                recall=recall[seen].mean(), F1=f1[seen].mean(), specificity=specificity[seen].mean(), kappa=kappa)


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: how often a positive sample has the higher score, ties counting half.

    Args:
        scores: (N,) finite.
        positive: (N,) bool.

    Returns:
        NaN where one kind is absent.
    """
    count = int(positive.sum())
    if not 0 < count < len(positive):
        return np.nan
    return float((rankdata(scores)[positive].sum() - count * (count + 1) / 2) / (count * (len(positive) - count)))


def ranking_scores(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Areas under ROC curves, means over the classes that are there.

    Args:
        scores: (N, K) that add up to 1.
        labels: (N,) classes.

    Returns:
        `AUC_ovr`, each class against all others, which the published code calls ovo; `AUC_ovo`, each pair of classes,
        a mean of both directions. NaN where there are less than two classes.
    """
    present = np.unique(labels)
    if len(present) < 2:
        return dict(AUC_ovr=np.nan, AUC_ovo=np.nan)
    ovr = [auc(scores[:, k], labels == k) for k in present]
    ovo = []
    for i, a in enumerate(present):
        for b in present[i + 1:]:
            pair = (labels == a) | (labels == b)
            ovo.append((auc(scores[pair, a], labels[pair] == a) + auc(scores[pair, b], labels[pair] == b)) / 2)
    return dict(AUC_ovr=float(np.mean(ovr)), AUC_ovo=float(np.mean(ovo)))


def feature_cosines(features: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Mean cosine between features of two samples of the same class, and of different classes.

    Args:
        features: (N, D).
        labels: (N,) classes.

    Returns:
        `same_class` and `other_class`, NaN where there is no such pair.
    """
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    sums = np.zeros((labels.max() + 1, features.shape[1]))
    np.add.at(sums, labels, unit)
    counts = np.bincount(labels).astype(np.float64)
    own = (unit ** 2).sum()
    same, pairs = (sums ** 2).sum() - own, (counts ** 2).sum() - len(labels)
    other, rest = (sums.sum(0) ** 2).sum() - (sums ** 2).sum(), len(labels) ** 2 - (counts ** 2).sum()
    return dict(same_class=same / pairs if pairs else np.nan, other_class=other / rest if rest else np.nan)


@METRICS.register_module()
class ClassMetric(BaseMetric):
    """Scores of `pred_scores` (K,) against `label`, and cosines of `feature` where samples have it.

    The decision is the largest score. The first value is the balanced accuracy, or kappa for ordered classes (those of
    a data set whose METAINFO says `ordered`).

    Args:
        collect_device, prefix: as in mmengine.
    """

    default_prefix = ''  # none; spares mmengine's warning
    less_is_better = ('other_class',)  # of its results, see ExportHook

    def __init__(self, collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)

    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Keep what some samples have.

        Args:
            data_batch: not used.
            data_samples: for each a dict with `label`, `pred_scores` and maybe `feature`.

        Raises:
            DataError: a sample without label or prediction, or scores that are not finite.
        """
        for sample in data_samples:
            for key in ('label', 'pred_scores'):
                if sample.get(key) is None:
                    raise DataError(f'ClassMetric: {sample.get("sample_id", "a sample")} has no {key}, expected it. '
                                    'Score a split with labels, by a classifier.')
            scores = np.asarray(sample['pred_scores'].cpu(), np.float64)
            if not np.isfinite(scores).all():
                raise DataError(f'ClassMetric: {sample.get("sample_id", "a sample")} has scores {scores}, expected '
                                'numbers. The net diverged; use an earlier checkpoint.')
            feature = sample.get('feature')
            self.results.append((int(sample['label']), scores,
                                 None if feature is None else np.asarray(feature.cpu(), np.float64)))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """All scores; a table of the classes goes to the log."""
        labels, scores = np.array([label for label, *_ in results]), np.stack([row for _, row, _ in results])
        predicted, meta = scores.argmax(1), self.dataset_meta or {}
        found = {**decision_scores(predicted, labels, scores.shape[1]), **ranking_scores(scores, labels)}
        if all(feature is not None for *_, feature in results):
            found |= feature_cosines(np.stack([feature for *_, feature in results]), labels)
        names = meta.get('classes') or [f'class {k}' for k in range(scores.shape[1])]
        width = max(map(len, names))
        lines = [f'{name:{width}} {(labels == k).sum():7,d} {recall(predicted, labels, k):7.4f}'
                 for k, name in enumerate(names)]
        print_log('\n'.join([f'{len(labels):,} images', f'{"class":{width}}  images  recall', *lines]), 'current')
        first = 'kappa' if meta.get('ordered') else 'BACC'
        return {key: float(found[key]) for key in dict.fromkeys((first, *found))}


def recall(predicted: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of the samples of class k that are found, NaN where there is none."""
    return float((predicted[labels == k] == k).mean()) if (labels == k).any() else float('nan')
