"""What each process of a two-process run sees; started by test_distributed.py through torchrun.

Usage: two_processes.py FOLDER
"""
import json
import sys
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from perception.apis.test import test
from perception.apis.train import train
from perception.utils.checkpoint import unwrap

CONFIG = Path(__file__).with_name('toy_config.py')


class Recorder(Hook):
    """Notes the weights before and after the first step, the loss of this process and the gradients used."""

    priority = 'LOWEST'

    def __init__(self):
        self.notes = {}

    def state(self, runner):
        return {k: v.clone() for k, v in unwrap(runner.model).state_dict().items()}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 0:
            self.notes['ids'] = [sample.sample_id for sample in data_batch['data_samples']]
            self.notes['before'] = self.state(runner)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 0:
            self.notes.update(after=self.state(runner), loss=outputs['loss'].detach())

    def after_train(self, runner):
        self.notes['last'] = self.state(runner)


def main():
    folder = Path(sys.argv[1])
    recorder, zero_grad, grads = Recorder(), OptimWrapper.zero_grad, []
    from_cfg = Runner.from_cfg.__func__

    def from_cfg_with_hook(cls, cfg):
        runner = from_cfg(cls, cfg)
        runner.register_hook(recorder)
        return runner

    def note_gradients(self):
        grads.append([p.grad.clone() for group in self.optimizer.param_groups for p in group['params']])
        zero_grad(self)

    Runner.from_cfg, OptimWrapper.zero_grad = classmethod(from_cfg_with_hook), note_gradients
    train(CONFIG, mini=True, work_dir=str(folder), launcher='pytorch')
    results = test(CONFIG, folder / 'model.pth', mini=True, launcher='pytorch', options=dict(work_dir=str(folder)))
    answers = folder / f'answers_{torch.distributed.get_rank()}.json'
    answers.write_text(json.dumps(dict.fromkeys(range(11), 1)))
    stored = test(CONFIG, predictions=answers, launcher='pytorch', options=dict(work_dir=str(folder)))
    notes = dict(recorder.notes, grads=grads[0], results=results, stored=stored)
    torch.save(notes, folder / f'notes_{torch.distributed.get_rank()}.pth')


if __name__ == '__main__':
    main()
    torch.distributed.destroy_process_group()
