"""Trains the toy config once per scenario, each in a forked process that may kill itself at a chosen point.

Called by test_resume.py as `python killed_runs.py SCENARIOS`, a JSON list of `[folder, kill point, options, resume]`;
prints a JSON list of how each process ended (0, or -9 for SIGKILL).
"""
import json
import os
import signal
import sys
from pathlib import Path

import matplotlib.pyplot  # noqa: F401  (here once, not in each child)
import torch._dynamo  # noqa: F401
import toy_room
from mmengine.hooks import Hook
from mmengine.runner import Runner

from perception.apis.train import train

CONFIG = Path(__file__).with_name('toy_config.py')


def die():
    """What a power cut, an out-of-memory killer or a batch system's last resort looks like."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at_rename(name, when, count):
    """Die just before or just after the count-th rename to a file of that name."""
    replace, seen = os.replace, []

    def replace_or_die(source, target):
        hit = Path(target).name == name and not seen.append(0) and len(seen) == count
        if hit and when == 'before':
            die()
        replace(source, target)
        if hit:
            die()

    os.replace = replace_or_die


class KillHook(Hook):
    """Dies at a place in the training loop."""

    priority = 'VERY_LOW'

    def __init__(self, place, epoch, batch_idx=None):
        self.place, self.epoch, self.batch_idx = place, epoch, batch_idx

    def _at(self, runner, place, batch_idx=None):
        if (place, runner.epoch, batch_idx) == (self.place, self.epoch, self.batch_idx):
            die()

    def before_train_epoch(self, runner):
        self._at(runner, 'before_train_epoch')

    def after_train_epoch(self, runner):
        self._at(runner, 'after_train_epoch')

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        self._at(runner, 'before_val_iter', batch_idx)


def arm(point):
    """Set the trap for a kill point."""
    kind, *arguments = point
    if kind == 'rename':
        kill_at_rename(*arguments)
    elif kind == 'step':  # between the gradients and the optimiser's step
        forward, calls = toy_room.ToyModel.forward, []

        def forward_or_die(self, inputs, data_samples=None, mode='tensor'):
            losses = forward(self, inputs, data_samples, mode)
            if mode == 'loss':
                calls.append(0)
                if len(calls) == arguments[0]:
                    losses['loss_ce'].register_hook(lambda grad: die())
            return losses

        toy_room.ToyModel.forward = forward_or_die
    else:
        from_cfg = Runner.from_cfg.__func__

        def from_cfg_with_hook(cls, cfg):
            runner = from_cfg(cls, cfg)
            runner.register_hook(KillHook(kind, *arguments))
            return runner

        Runner.from_cfg = classmethod(from_cfg_with_hook)


def main():
    ends = []
    for folder, point, options, resume in json.loads(sys.argv[1]):
        Path(folder).mkdir(parents=True, exist_ok=True)
        child = os.fork()
        if child == 0:
            log = os.open(Path(folder, 'output.txt'), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            try:
                if point:
                    arm(point)
                train(CONFIG, work_dir=folder, resume=resume, options=options)
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    sys.stdout.write(json.dumps(ends))


if __name__ == '__main__':
    main()
