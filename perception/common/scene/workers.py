"""Several processes that write the streets of a mini data set, each street in one of them."""
from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import cv2
from tqdm import tqdm

from perception.utils.errors import DataError

MOST = 16  # processes that are started unasked; each takes up to a gigabyte
THREADS = ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS')


def write_streets(write: Callable[..., Any], jobs: Sequence[tuple], sizes: Sequence[int], workers: int, title: str,
                  unit: str) -> list[Any]:
    """Writes streets in several processes, with a bar of what is done.

    The first failure, and Ctrl-C, end all processes before they are raised here: none of them writes on.

    Args:
        write: a function of a module, called with the arguments of each job; what it does depends on these alone.
        jobs: the arguments; they and what `write` returns can be pickled.
        sizes: images or scans of each job, for the bar.
        workers: processes, 0 for as many as there are cores; 1 works in this one.
        title: name of the data, for the bar and messages, such as `'CULane'`.
        unit: what the bar counts, such as `'scan'`.

    Returns:
        what `write` returned, in the order of the jobs; the same for any number of workers.

    Raises:
        DataError: a process died.
        OSError: and whatever else `write` raised.
    """
    workers = min(workers or min(len(os.sched_getaffinity(0)), MOST), len(jobs))
    with tqdm(total=sum(sizes), desc=f'mini {title}', unit=unit, file=sys.stderr, disable=None) as bar:
        if workers == 1:
            results = []
            for job, size in zip(jobs, sizes):
                results.append(write(*job))
                bar.update(size)
            return results
        before = multiprocessing.active_children()
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context('spawn'), initializer=_begin)
        try:
            with _starting():
                size_of = {pool.submit(write, *job): size for job, size in zip(jobs, sizes)}
            for future in as_completed(size_of):
                future.result()
                bar.update(size_of[future])
            return [future.result() for future in size_of]
        except BaseException as error:
            for process in set(multiprocessing.active_children()) - set(before):
                process.terminate()
            if isinstance(error, BrokenProcessPool):
                raise DataError(f'mini {title}: a worker process died ({error}), expected it to write {unit}s. It '
                                'probably ran out of memory; try again with workers=1.') from error
            raise
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """Processes that start in this block leave Ctrl-C to this one, take one thread and do not read the user's script.

    A script without `if __name__ == '__main__'` would run in each of them again.
    """
    main, environment = sys.modules['__main__'], {name: os.environ.get(name) for name in THREADS}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # they keep it
    try:
        sys.modules['__main__'] = types.ModuleType('__main__')
        os.environ.update(dict.fromkeys(THREADS, '1'))
        yield
    finally:
        sys.modules['__main__'] = main
        for name, value in environment.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _begin() -> None:
    """In a worker: one thread, and no life of its own after its parent's end."""
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
