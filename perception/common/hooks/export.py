"""Weights to deploy, beside the checkpoints to resume from."""
import math
from fnmatch import fnmatchcase
from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn

from perception.common.finite import check_model
from perception.registry import HOOKS
from perception.utils.checkpoint import save_atomic, unwrap
from perception.utils.checks import close_matches
from perception.utils.errors import ConfigError


@HOOKS.register_module()
class ExportHook(Hook):
    """Writes `<work_dir>/model.pth`, plain weights of the deployable model at its best epoch.

    The deployable model is the model itself, or the attribute `student` of a distiller. Without validation it is the
    latest epoch. A distiller also leaves `student.pth`, its latest student, after each checkpoint. With mmengine's
    EMAHook all of them are the averaged weights, which are those that are validated.

    Args:
        metric: name of the validation result to compare; None takes the first one.
        rule: `'greater'` when more is better, else `'less'`. A metric tells patterns of those of its results of which
            less is better in its attribute `less_is_better`.

    Raises:
        ConfigError: another rule, no such result, or (in training) `'greater'` for one of which less is better.
    """

    priority = 'VERY_HIGH'  # before hooks that put the weights back after a validation, and before CheckpointHook

    def __init__(self, metric: str | None = None, rule: str = 'greater') -> None:
        if rule not in ('greater', 'less'):
            raise ConfigError(f"ExportHook: rule={rule!r} came, expected 'greater' or 'less'. Correct the config.")
        self.metric = metric
        self.rule = rule
        self._training = False

    def before_train(self, runner: Runner) -> None:
        """Results count from here on only, not those of a test, nor one whose weights another folder has."""
        self._training = True
        if not Path(runner.work_dir, 'model.pth').is_file():
            runner.message_hub.update_info('best_score', None)
        if self.metric is not None:
            self._check_rule(runner, self.metric)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Write model.pth when the score is the best so far."""
        if not self._training or not metrics:
            return
        name = self.metric or next(iter(metrics))
        if name not in metrics:
            raise ConfigError(f'ExportHook: metric {name!r} came, expected a result of the validation. '
                              f'{close_matches(name, metrics)}')
        self._check_rule(runner, name)
        score, best = float(metrics[name]), runner.message_hub.get_info('best_score')
        by = f'{name}, {self.rule}'
        if runner.message_hub.get_info('best_by') not in (None, by):
            best = None  # a resumed run compares by something else
        runner.message_hub.update_info('best_by', by)
        if best is None or math.isnan(best) or (score > best if self.rule == 'greater' else score < best):
            runner.message_hub.update_info('best_score', score)
            runner.message_hub.update_info('best_epoch', runner.iter if _by_iteration(runner) else runner.epoch)
            self._write(runner, 'model.pth', validated=True)
            runner.logger.info(f'Best {name} so far: {score:.4f}, weights in {Path(runner.work_dir, "model.pth")}')

    def after_save_checkpoint(self, runner: Runner) -> None:
        """Called by `CheckpointHook` after each checkpoint."""
        if isinstance(getattr(unwrap(runner.model), 'student', None), nn.Module):
            self._write(runner, 'student.pth')
        if runner.val_loop is None:
            self._write(runner, 'model.pth')

    def after_train(self, runner: Runner) -> None:
        """Write again what a kill may have left behind, and say where the weights are."""
        self.after_save_checkpoint(runner)
        if not Path(runner.work_dir, 'model.pth').is_file():
            self._write(runner, 'model.pth')
        best = runner.message_hub.get_info('best_score')
        unit = 'iteration' if _by_iteration(runner) else 'epoch'
        what = '' if best is None else f' of {unit} {runner.message_hub.get_info("best_epoch")} (score {best:.4f})'
        runner.logger.info(f'Weights{what} to test and deploy: {Path(runner.work_dir, "model.pth")}')

    def _check_rule(self, runner: Runner, name: str) -> None:
        """See that the best epoch will not be the worst one."""
        metrics = getattr(getattr(runner.val_loop, 'evaluator', None), 'metrics', ())
        if self.rule == 'greater' and any(
                fnmatchcase(name.removeprefix(f'{metric.prefix}/'), pattern)
                for metric in metrics for pattern in getattr(metric, 'less_is_better', ())):
            raise ConfigError(f"ExportHook: rule='greater' came for {name}, of which less is better, expected "
                              "rule='less', or model.pth holds the worst epoch. Set default_hooks.export.rule=less, or "
                              'name another result in default_hooks.export.metric.')

    @staticmethod
    @master_only
    def _write(runner: Runner, name: str, validated: bool = False) -> None:
        """Write the weights that are, or would be, validated.

        Raises:
            TrainingError: they are not finite.
        """
        means = [] if validated else [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
        path, model = Path(runner.work_dir, name), unwrap(runner.model)
        for hook in means:
            hook._swap_ema_parameters()
        try:
            check_model(runner, path)
            deployable = getattr(model, 'student', model)
            weights = {k: v.detach().cpu() for k, v in deployable.state_dict().items()}
            structure = getattr(deployable, 'structure', None)  # of a pruned net
            save_atomic(dict(state_dict=weights, meta=dict(structure=structure)) if structure else weights, path)
        finally:
            for hook in means:
                hook._swap_ema_parameters()


def _by_iteration(runner: Runner) -> bool:
    return isinstance(runner.train_loop, IterBasedTrainLoop)
