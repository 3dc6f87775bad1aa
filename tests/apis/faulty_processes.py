"""Two processes of which one meets a fault; started by test_distributed.py through torchrun.

Usage: faulty_processes.py FOLDER FAULT, a training that ends as the command does.
"""
import os
import signal
import sys
from pathlib import Path

import torch
import toy_room
from mmengine.hooks import Hook

from perception.apis.cli import run_command
from perception.apis.runner import Runner
from perception.apis.train import train
from perception.utils.checkpoint import unwrap

CONFIG = Path(__file__).with_name('toy_config.py')
RANK = int(os.environ['RANK'])


class Buffers(Hook):
    """Notes the buffers of this process when it validates and at the end of each epoch."""

    priority = 'LOWEST'

    def __init__(self):
        self.notes = []

    def before_val_epoch(self, runner):
        self.notes.append({k: v.clone() for k, v in unwrap(runner.model).named_buffers()})

    after_train_epoch = before_val_epoch


def spoil(fault):
    """Make the second process meet a fault in its eighth step."""
    forward, count = toy_room.ToyModel.forward, [0]

    def spoilt(self, inputs, data_samples=None, mode='tensor'):
        outputs = forward(self, inputs, data_samples, mode)
        if mode == 'loss':
            count[0] += 1
            if RANK == 1 and count[0] == 8 and fault == 'nan':
                outputs['loss_extra'] = outputs['loss_ce'] * float('nan')
            if RANK == 1 and count[0] == 8 and fault == 'kill':
                os.kill(os.getpid(), signal.SIGKILL)
        return outputs

    toy_room.ToyModel.forward = spoilt


def main():
    folder, fault = Path(sys.argv[1]), sys.argv[2]
    spoil(fault)
    buffers, from_cfg = Buffers(), Runner.from_cfg.__func__

    def from_cfg_with_hook(cls, cfg):
        runner = from_cfg(cls, cfg)
        runner.register_hook(buffers)
        return runner

    Runner.from_cfg = classmethod(from_cfg_with_hook)
    allow = 1 if fault == 'nan' and (folder / 'allow').exists() else 0
    run_command(train, CONFIG, work_dir=str(folder), launcher='pytorch', allow_nan=allow, resumable=True)
    torch.save(buffers.notes, folder / f'buffers_{RANK}.pth')
    assert not torch.distributed.is_initialized()


if __name__ == '__main__':
    main()
