"""What is reported of a training without a validation set of its own."""
from mmengine.hooks import Hook
from mmengine.runner import Runner

from perception.common.log import last_means
from perception.registry import HOOKS
from perception.utils.checks import check_positive


@HOOKS.register_module()
class LastEpochsHook(Hook):
    """Logs at the end of a training the mean of each score over the last validations, which is what CRCKD reports.

    Args:
        count: how many, or as many as there were.
    """

    priority = 'LOW'

    def __init__(self, count: int = 10) -> None:
        check_positive('LastEpochsHook', count=count)
        self.count = count

    def after_train(self, runner: Runner) -> None:
        """Log them."""
        scalars = {name: buffer.data[0] for name, buffer in runner.message_hub.log_scalars.items()}
        means = last_means(scalars, self.count)
        if means:
            there = max(len(values) for name, values in scalars.items() if name.startswith('val/'))
            runner.logger.info(f'mean of the last {min(self.count, there)} validations: '
                               + '  '.join(f'{name} {value:.4f}' for name, value in means.items()))
