"""The score of a teacher before its student learns from it."""
import math

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner.amp import autocast
from torch.utils.data import DataLoader, Subset

from perception.registry import HOOKS
from perception.utils.checkpoint import unwrap
from perception.utils.errors import ConfigError


@HOOKS.register_module()
class TeacherScoreHook(Hook):
    """Evaluates each teacher of a distiller once at the start of a training and logs its score.

    A teacher with the wrong weights or the wrong input would otherwise be noticed after days. A resumed run does not
    repeat it. Teachers whose model cannot predict by itself are no business of this hook: leave it out.

    Args:
        num_samples: how many samples of the validation set to look at, from its start; 0 switches the hook off.
        metric: name of the result to log; None takes the first one.

    Raises:
        ConfigError: a negative number.
    """

    priority = 'LOW'

    def __init__(self, num_samples: int = 100, metric: str | None = None) -> None:
        if num_samples < 0:
            raise ConfigError(f'TeacherScoreHook: num_samples={num_samples} came, expected 0 or more. 0 switches the '
                              f'evaluation off.')
        self.num_samples = num_samples
        self.metric = metric

    def before_train(self, runner: Runner) -> None:
        """Evaluate the teachers, unless the run is resumed."""
        if self.num_samples == 0 or runner.iter > 0 or runner.val_loop is None:
            return
        model = unwrap(runner.model)
        for name, teacher in getattr(model, 'teachers', {}).items():
            if not hasattr(teacher, 'model'):  # such as optical flow, or features in files
                continue
            self._evaluate(runner, name, teacher, model.data_preprocessor)

    @torch.no_grad()
    def _evaluate(self, runner: Runner, name: str, teacher: torch.nn.Module, data_preprocessor: torch.nn.Module,
                  ) -> None:
        loop, loader = runner.val_loop, runner.val_dataloader
        count = min(self.num_samples, len(loader.dataset))
        runner.logger.info(f'Evaluating the teacher {name!r} on {count} validation samples ...')
        rounds = math.ceil(count / runner.world_size)  # every process gets equally many; metrics drop the repeated ones
        mine = [i % count for i in range(runner.rank, rounds * runner.world_size, runner.world_size)]
        samples = DataLoader(Subset(loader.dataset, mine), loader.batch_size, collate_fn=loader.collate_fn,
                             generator=torch.Generator())  # an own generator: the run's random numbers stay as they are
        for batch in samples:
            data = data_preprocessor(batch, False)
            inputs = teacher.own(data['inputs']) if hasattr(teacher, 'own') else data['inputs']
            with autocast(enabled=getattr(loop, 'fp16', False)):
                predictions = teacher.model(inputs, data['data_samples'], mode='predict')
            loop.evaluator.process(data_samples=predictions, data_batch=batch)
        results = loop.evaluator.evaluate(count)
        metric = self.metric or next(iter(results))
        if metric not in results:
            raise ConfigError(f'TeacherScoreHook: metric {metric!r} came, expected one of {", ".join(results)}. '
                              f'Correct the config.')
        runner.logger.info(f'Teacher {name!r}: {metric} {results[metric]:.4f} on the first {count} of '
                           f'{len(loader.dataset)} validation samples')
