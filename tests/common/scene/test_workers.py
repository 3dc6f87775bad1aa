"""Streets in several processes; the mini data sets' own tests compare bytes."""
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from perception.common.scene.workers import write_streets
from perception.utils.errors import DataError

SCRIPT = '''
import sys, time
from perception.common.scene.workers import write_streets
print('started', flush=True)
write_streets(time.sleep, [(60,)] * 2, [1, 1], 2, 'streets', 'scan')
'''


def _act(what):
    if what == 'fail':
        raise OSError(28, 'No space left on device')
    time.sleep(60)


@pytest.mark.parametrize('workers', [1, 2])
def test_results_come_in_the_order_of_the_jobs(workers):
    jobs = [(n,) for n in range(6)]
    assert write_streets(math.factorial, jobs, [1] * 6, workers, 'x', 'scan') == [1, 1, 2, 6, 24, 120]


def test_workers_take_one_thread_and_leave_the_environment_alone(monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '7')
    monkeypatch.delenv('OPENBLAS_NUM_THREADS', raising=False)
    jobs = [('OMP_NUM_THREADS',), ('OPENBLAS_NUM_THREADS',)]
    assert write_streets(os.getenv, jobs, [1, 1], 2, 'x', 'scan') == ['1', '1']
    assert [os.getenv(*job) for job in jobs] == ['7', None]


def test_the_first_failure_ends_the_others():
    start = time.perf_counter()
    with pytest.raises(OSError, match='No space left'):  # a full disk
        write_streets(_act, [('sleep',), ('fail',)], [1, 1], 2, 'x', 'scan')
    assert time.perf_counter() - start < 30 and not multiprocessing.active_children()


def test_a_dead_worker_is_an_error():
    with pytest.raises(DataError, match='mini streets: a worker process died.*workers=1'):
        write_streets(os._exit, [(3,), (3,)], [1, 1], 2, 'streets', 'scan')
    assert not multiprocessing.active_children()


def test_an_interrupt_ends_all():
    timer = threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT))
    start = time.perf_counter()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        write_streets(time.sleep, [(60,), (60,)], [1, 1], 2, 'streets', 'scan')
    assert time.perf_counter() - start < 30 and not multiprocessing.active_children()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGKILL])
def test_workers_of_a_script_without_main_do_not_run_it_nor_outlive_it(number, root, tmp_path):
    (tmp_path / 'script.py').write_text(SCRIPT)
    process = subprocess.Popen([sys.executable, tmp_path / 'script.py'], cwd=root, text=True, start_new_session=True,
                               env={**os.environ, 'PYTHONPATH': str(root)}, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    assert process.stdout.readline() == 'started\n'
    time.sleep(2)
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    out, err = process.communicate(timeout=30)  # the pipes end with the last worker
    assert out == '' and err.count('KeyboardInterrupt\n') == (number == signal.SIGINT)
    assert err.count('Traceback') <= 1
