"""Mean and deviation of the targets of a training set, taken once, so that they stand in every checkpoint."""
import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner

from perception.common.dataset import parts
from perception.registry import HOOKS
from perception.utils.checkpoint import unwrap
from perception.utils.errors import ConfigError


@HOOKS.register_module()
class TargetStatisticsHook(Hook):
    """Gives a SteeringNet mean and deviation of angle, torque and speed of the training data.

    A net that knows them already, from its config or a checkpoint, keeps them.
    """

    priority = 'VERY_HIGH'  # before weights are copied or averaged

    def before_train(self, runner: Runner) -> None:
        """Take the statistics.

        Raises:
            ConfigError: the training data do not tell their targets.
        """
        net = unwrap(runner.model)
        net = getattr(net, 'student', net)
        if not getattr(net, 'target_known', True):
            net.set_statistics(*statistics(runner.train_dataloader.dataset))
            runner.logger.info('Targets of the training data: mean '
                               f'{[round(x, 4) for x in net.target_mean.tolist()]}, deviation '
                               f'{[round(x, 4) for x in net.target_std.tolist()]} (angle [deg], torque, speed [m/s]).')


def statistics(dataset) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation (3,) of the targets of a data set, over the frames where each is known; NaN where none is.

    Args:
        dataset: a DrivingClips, whose recordings have the `targets` (N, 3) of their frames, or several of them joined.

    Raises:
        ConfigError: a data set without them.
    """
    recordings = []
    for place, data in parts(dataset):
        if not hasattr(data, 'recordings'):
            raise ConfigError(f'TargetStatisticsHook: {place}: {type(data).__name__} has no recordings, expected a '
                              'data set of driving recordings. Give model.target_mean and model.target_std.')
        recordings += data.recordings
    targets = np.ma.masked_invalid(np.concatenate([r.targets for r in recordings]).astype(float))
    return targets.mean(0).filled(np.nan), targets.std(0).filled(np.nan)
