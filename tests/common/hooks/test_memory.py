"""The memory in the log is that of the training."""
import resource
import sys
from types import SimpleNamespace

import pytest
import torch

from perception.common.hooks.memory import MemoryHook
from perception.common.measure import peak_memory


@pytest.mark.skipif(sys.platform != 'linux' or torch.cuda.is_available(), reason='logged on a CPU, told apart by Linux')
def test_the_peak_of_what_started_the_training_does_not_count(monkeypatch):
    monkeypatch.setattr(resource, 'getrusage', lambda who: SimpleNamespace(ru_maxrss=2**40))  # its parent's
    logged = {}
    MemoryHook().after_train_iter(SimpleNamespace(message_hub=SimpleNamespace(update_scalar=logged.__setitem__)), 0)
    assert logged == {'train/memory_gb': pytest.approx(peak_memory() / 1024, rel=0.1)}
