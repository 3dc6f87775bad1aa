"""Running means of weights, for mmengine's EMAHook."""
import math

from mmengine.model import BaseAveragedModel
from torch import Tensor, nn

from perception.registry import MODELS
from perception.utils.errors import ConfigError


@MODELS.register_module()
class ExpMomentumEMA(BaseAveragedModel):
    """A mean whose memory grows: at step t it keeps (1 - momentum) (1 - exp(-(t + 1) / gamma)) of itself.

    With momentum 0.001 and gamma 2000 that of YOLOX and BEVDepth, which starts near the weights as they are.

    Args:
        model: whose weights are averaged.
        momentum: share of new weights in the end.
        gamma: steps in which the memory grows to 63 %.
        options: `interval`, `device` and `update_buffers` of mmengine's BaseAveragedModel.

    Raises:
        ConfigError: a momentum outside 0..1, or a gamma that is not positive.
    """

    def __init__(self, model: nn.Module, momentum: float = 0.001, gamma: float = 2000, **options):
        super().__init__(model, **options)
        if not 0 < momentum < 1 or gamma <= 0:
            raise ConfigError(f'ExpMomentumEMA: momentum={momentum}, gamma={gamma}, expected 0 < momentum < 1 and '
                              'gamma above 0. Correct them.')
        self.momentum, self.gamma = momentum, gamma

    def avg_func(self, averaged_param: Tensor, source_param: Tensor, steps: int) -> None:
        """Move a mean towards the weights of step `steps`, in place."""
        share = (1 - self.momentum) * math.exp(-(1 + float(steps)) / self.gamma) + self.momentum
        averaged_param.lerp_(source_param, share)
