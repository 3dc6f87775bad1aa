"""Memory in the log line where mmengine has none."""
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from perception.common.measure import peak_memory
from perception.registry import HOOKS


@HOOKS.register_module()
class MemoryHook(Hook):
    """Adds the peak resident memory of the process in GiB to each log line on a CPU; on CUDA mmengine logs its own."""

    priority = 'NORMAL'

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        """Note the peak so far."""
        if not torch.cuda.is_available():
            runner.message_hub.update_scalar('train/memory_gb', peak_memory() / 2**10)
