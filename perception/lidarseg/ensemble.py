"""Several segmentors label a scan together: the mean of their probabilities decides."""
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from perception.lidarseg.models.points import label_points
from perception.lidarseg.tta import TTASegmentor, view_logits
from perception.registry import MODELS
from perception.utils.errors import ConfigError


@MODELS.register_module()
class EnsembleSegmentor(nn.Module):
    """Predicts the class with the largest mean probability over several nets, whatever nets they are.

    Each net voxelises the scan in its own way. A net inside a TTASegmentor gives the probabilities of its votes.

    Args:
        models: segmentors, bare or in a TTASegmentor, all of the same classes.

    Raises:
        ConfigError: no model, or models with different numbers of classes.
    """

    def __init__(self, models: Sequence[nn.Module | dict]) -> None:
        super().__init__()
        self.models = nn.ModuleList(MODELS.build(model) if isinstance(model, dict) else model for model in models)
        counts = [model.num_classes for model in self.models]
        if len(set(counts)) != 1:
            came = ' and '.join(map(str, sorted(set(counts)))) or 'no'
            raise ConfigError(f'ensemble: models with {came} classes came, expected equal numbers. Take checkpoints '
                              'that were trained on the same data set.')
        self.num_classes = counts[0]

    @torch.no_grad()
    def test_step(self, data: dict) -> list:
        """Predict a batch as it comes from the data loader.

        Args:
            data: `inputs` with `points`, a list of (N, D) tensors, and `data_samples`, a PointSegSample each.

        Returns:
            the samples with `pred_labels` (N,) int64.
        """
        for points, sample in zip(data['inputs']['points'], data['data_samples']):
            label_points(self.probs(points, sample.sample_id), [len(points)], [sample])
        return data['data_samples']

    def probs(self, points: Tensor, sample_id: str) -> Tensor:
        """Mean of the members' probabilities.

        Args:
            points: (N, D).
            sample_id: seeds the views of members with test-time augmentation.

        Returns:
            (N, C) float32.
        """
        return sum(member_probs(model, points, sample_id) for model in self.models) / len(self.models)


def member_probs(model: nn.Module, points: Tensor, sample_id: str) -> Tensor:
    """Probabilities of the points of one scan by one member, (N, C) float32.

    Args:
        model: a segmentor, bare or in a TTASegmentor.
        points: (N, D).
        sample_id: name of the scan.
    """
    if isinstance(model, TTASegmentor):
        return model.probs(points, sample_id)
    return view_logits(model, [points]).softmax(dim=1)[:, :model.num_classes]
