"""Few large scales instead of many small ones: the sparsity phase of network slimming, before a net is pruned."""
from collections.abc import Mapping

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from perception.registry import HOOKS
from perception.utils.checkpoint import unwrap
from perception.utils.checks import check_positive
from perception.utils.errors import ConfigError


@HOOKS.register_module()
class SparsityHook(Hook):
    """Adds `loss_sparsity`, the sum of the sizes of all scales of batch norms that are trained, to the losses.

    Zhuang Liu, Jianguo Li, Zhiqiang Shen, Gao Huang, Shoumeng Yan, Changshui Zhang. Learning Efficient Convolutional
    Networks through Network Slimming. ICCV 2017. Of a distillation the student is meant; slim nets are left alone.

    Args:
        strength: factor of the sum.

    Raises:
        ConfigError: the factor is not positive, or (in training) the net has no batch norms to train.
    """

    def __init__(self, strength: float = 1e-4) -> None:
        check_positive('SparsityHook', strength=strength)
        self.strength = strength

    def before_train(self, runner: Runner) -> None:
        """Let the model's losses have one more."""
        model = unwrap(runner.model)
        net = getattr(model, 'student', model)
        if getattr(net, 'structure', None) is not None:
            runner.logger.info('The net is slim already; its scales are not made sparse.')
            return
        scales = [module.weight for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
                  and module.weight is not None and module.weight.requires_grad]
        if not scales:
            raise ConfigError(f'SparsityHook: {type(net).__name__} has no batch norms that are trained, expected some. '
                              'Leave prune.sparsity out.')
        plain = model.parse_losses

        def parse_losses(losses: Mapping[str, Tensor]) -> tuple[Tensor, dict]:
            return plain(dict(losses, loss_sparsity=self.strength * torch.cat(scales).abs().sum()))
        model.parse_losses = parse_losses
