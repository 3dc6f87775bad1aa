"""Fixtures that several rooms share."""
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parent.parent
if not torch.cuda.is_available():  # Triton's kernels run in its interpreter; this must be said before it is imported
    os.environ.setdefault('TRITON_INTERPRET', '1')


def pytest_configure() -> None:
    """Take interrupts as a user's terminal gives them: a shell that starts tests in the background ignores them."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope='session')
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture(scope='session')
def shared() -> Path:
    """The development folder with goldens and real scans beside the checkout."""
    folder = ROOT.parent / 'shared'
    if not (folder / 'goldens').is_dir():
        pytest.skip('the development folder ../shared (goldens, real scans) is not beside this checkout')
    return folder


_IMAGES = dict(detail=.1, length=180.0, workers=1)  # blurred, from short streets
TINY = dict(  # mini data set -> arguments of its writer, small enough for tests
    # scans of few columns: sequences 00 (3 scans), 08 (2), 11 to 21 (1 each)
    semantickitti=dict(train_scans=[3], val_scans=[2], columns=260, interval=0.8, workers=1),
    semantickitti_multiscan=dict(train_scans=[3], val_scans=[1], columns=60, workers=1),
    # 1 training, 2 validation, 1 test scene of 1, 2, 1 frames
    nuscenes=dict(train_frames=1, val_frames=2, test_frames=1, train_scenes=1, test_scenes=1, columns=150, detail=.02,
                  workers=1),
    # 2 training and 2 validation scenes of 1 key frame, 1 of test
    nuscenes_rig=dict(train_frames=1, val_frames=1, test_frames=1, train_scenes=2, columns=120, width=160, detail=.05,
                      workers=1),
    # a drive of 1 moment to train and one to validate with
    rig_folder=dict(train_frames=1, val_frames=1, train_scenes=1, val_scenes=1, width=160, detail=.05, workers=1),
    waymo=dict(train_segments=1, train_frames=2, val_segments=1, val_frames=1, test_frames=1, columns=60,
               workers=1),
    street=dict(train=11, val=10),
    point_folder=dict(train_scans=1, val_scans=1, columns=130, workers=1),
    # 2 training frames, 1 of val, 1 of test; fewer columns leave nobody with enough points
    stcrowd=dict(train_sequences=1, train_frames=2, val_sequences=1, val_frames=1, test_sequences=1, test_frames=1,
                 columns=256, detail=.05, workers=1),
    # drives of 24 frames to train with (18 in BDD's videos of 14 s) and of 12 to test
    udacity=dict(train_drives=1, train_frames=24, test_drives=1, test_frames=12, detail=.1, workers=1),
    comma=dict(train_drives=1, train_frames=24, test_drives=1, test_frames=12, detail=.1, workers=1),
    bdd_driving=dict(train_drives=1, val_drives=1, test_drives=1, rate=1.0, detail=.05, workers=1),
    cityscapes=dict(train_streets=1, val_streets=1, test_streets=1, images=2, detail=.05, workers=1),
    imagenet=dict(count=120),  # 100 training images, 20 of val, of ten classes
    culane=dict(_IMAGES, train=3, val=1, test=9),  # of the official size, one test image a category
    tusimple=dict(_IMAGES, train=3, val=1, test=2),
    bdd100k=dict(_IMAGES, train=7, val=2, test=1),  # SAD validates with one of the training images
    llamas=dict(_IMAGES, train=3, val=1, test=1),
    lane_folder=dict(_IMAGES, train=2, val=1, test=1),
    apolloscape=dict(_IMAGES, train=2, val=1, test=1),  # 3384 x 2710 pixels
    ffhq=dict(count=8), digits=dict(count=32),
    aptos=dict(train=60, test=2, size=48), ham10000=dict(train=80, test=2, size=48),
    class_folder=dict(images=40, size=48))


@pytest.fixture(scope='session')
def tiny_arguments() -> dict[str, dict]:
    """What the writers of tiny mini data sets are given."""
    return TINY


@pytest.fixture(scope='session')
def mini_set(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a tiny mini data set; all processes of a run share it, the first one writes it."""
    folder = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        folder = folder.parent

    def give(name: str) -> Path:
        from perception.apis.mini import make_mini
        if name == 'comma':
            pytest.importorskip('h5py', reason='h5py, which reads Comma.ai, is not installed')
        root = folder / 'mini' / name
        with FileLock(folder / f'{name}.lock'):
            if not root.is_dir():  # it appears when it is complete
                list(make_mini([name], root, options=TINY.get(name, {})))
        return root
    return give


@pytest.fixture(scope='session')
def mini_kitti(mini_set: Callable[[str], Path]) -> Path:
    """The tiny set of TINY."""
    return mini_set('semantickitti')


@pytest.fixture(scope='session')
def mini_nuscenes(mini_set: Callable[[str], Path]) -> Path:
    """The tiny set of TINY."""
    return mini_set('nuscenes')


@pytest.fixture(scope='session')
def mini_culane(mini_set: Callable[[str], Path]) -> Path:
    """The tiny set of TINY."""
    return mini_set('culane')


@pytest.fixture(scope='session')
def mini_tusimple(mini_set: Callable[[str], Path]) -> Path:
    """The tiny set of TINY."""
    return mini_set('tusimple')


@pytest.fixture(scope='session')
def mini_bdd100k(mini_set: Callable[[str], Path]) -> Path:
    """The tiny set of TINY."""
    return mini_set('bdd100k')


@pytest.fixture(scope='session')
def mini_llamas(mini_set: Callable[[str], Path]) -> Path:
    """The tiny set of TINY."""
    return mini_set('llamas')


@pytest.fixture(scope='session')
def mini_apolloscape(mini_set: Callable[[str], Path]) -> Path:
    """The tiny set of TINY."""
    return mini_set('apolloscape')


class Waits(TorchDispatchMode):
    """Lists what makes the host wait for a device, each as an operation with the place in this project."""
    ALWAYS = ('nonzero', 'item', '_local_scalar_dense', '_unique2', 'unique_dim', 'unique_consecutive',
              'masked_select', 'bincount', 'equal', 'is_nonzero')
    METHODS = ('tolist', 'numpy', 'cpu')

    def __init__(self, monkeypatch):
        super().__init__()
        self.found = []
        for owner, names in ((torch.Tensor, self.METHODS), (torch, ('tensor', 'as_tensor'))):
            for name in names:
                monkeypatch.setattr(owner, name, self.listed(name, getattr(owner, name)))

    def listed(self, name, function):
        def call(*args, **kwargs):
            if name not in ('tensor', 'as_tensor') or not isinstance(args[0], torch.Tensor):
                self.add(name)
            return function(*args, **kwargs)
        return call

    def add(self, name):
        package = f'{ROOT / "perception"}{os.sep}'
        stack = [frame for frame in traceback.extract_stack(sys._getframe(2)) if frame.filename.startswith(package)]
        place = ' < '.join(f'{frame.filename.removeprefix(package)}:{frame.lineno} {frame.name}'
                           for frame in stack[:-4:-1])
        self.found.append(f'{name} at {place or "elsewhere"}')

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, kwargs = function.overloadpacket.__name__, kwargs or {}
        masks = name in ('index', 'index_put', 'index_put_') and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        masks = masks and (name == 'index' or args[2].numel() != 1)  # a number is filled in without counting
        if name in self.ALWAYS or masks or (name == 'repeat_interleave' and kwargs.get('output_size') is None):
            self.add(name)
        return function(*args, **kwargs)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch):
    """A context that gives the list of what makes the host wait inside it, see `Waits`."""
    @contextmanager
    def listed():
        with monkeypatch.context() as patch, Waits(patch) as mode:
            yield mode.found
    return listed


@pytest.fixture
def two_processes(tmp_path):
    """Calls `work(rank)` in two processes that reach each other over gloo; gives what both returned."""
    def run(work):
        def start(rank):
            torch.set_num_threads(1)
            torch.distributed.init_process_group('gloo', f'file://{tmp_path}/meet', rank=rank, world_size=2)
            (tmp_path / f'{rank}.pickle').write_bytes(pickle.dumps(work(rank)))
            torch.distributed.destroy_process_group()
        processes = [multiprocessing.get_context('fork').Process(target=start, args=(rank,)) for rank in (0, 1)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(100)
            assert process.exitcode == 0
        return [pickle.loads((tmp_path / f'{rank}.pickle').read_bytes()) for rank in (0, 1)]
    return run
