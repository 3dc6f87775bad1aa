"""Fixtures that several rooms share."""
import importlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent


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


def _written_once(name: str, factory: pytest.TempPathFactory, write: Callable[..., Path], **arguments) -> Path:
    """A mini data set that all processes of a run share: the first one writes it, the others wait."""
    folder = factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        folder = folder.parent
    root = folder / 'mini' / name
    with FileLock(folder / f'{name}.lock'):
        return root if root.is_dir() else write(root, **arguments)  # it appears only when it is complete


@pytest.fixture(scope='session')
def mini_kitti(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SemanticKITTI of simulated scans with few columns: sequences 00 (3 scans), 08 (2), 11 to 21 (1 each)."""
    from perception.lidarseg.datasets.semantickitti.mini import write_semantickitti_mini
    return _written_once('semantickitti', tmp_path_factory, write_semantickitti_mini, train_scans=(3,), val_scans=2,
                         columns=260, interval=0.8)


@pytest.fixture(scope='session')
def mini_nuscenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny nuScenes of 150 columns and blurred images: 1 training, 2 validation, 1 test scene of 1, 2, 1 frames."""
    from perception.common.nuscenes.mini import write_nuscenes_mini
    return _written_once('nuscenes', tmp_path_factory, write_nuscenes_mini, train_frames=1, val_frames=2,
                         test_frames=1, train_scenes=1, test_scenes=1, columns=150, detail=.02, workers=1)


@pytest.fixture(scope='session')
def mini_culane(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CULane at the official size but blurred: 3 images for train, 1 for val, 9 for test, one a category."""
    return _tiny_lanes('culane', tmp_path_factory, train=3, val=1, test=9)


@pytest.fixture(scope='session')
def mini_tusimple(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny TuSimple: 3 images for train, 1 for val, 2 for test."""
    return _tiny_lanes('tusimple', tmp_path_factory, train=3, val=1, test=2)


@pytest.fixture(scope='session')
def mini_bdd100k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BDD100K: 7 images in train (SAD validates with one of them), 2 in val, 1 in test."""
    return _tiny_lanes('bdd100k', tmp_path_factory, train=7, val=2, test=1)


@pytest.fixture(scope='session')
def mini_llamas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLAMAS: 3 images for train, 1 for val, 1 for test."""
    return _tiny_lanes('llamas', tmp_path_factory, train=3, val=1, test=1)


@pytest.fixture(scope='session')
def mini_apolloscape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ApolloScape: 2 images for train, 1 for val, 1 for test, each of 3384 x 2710 pixels."""
    return _tiny_lanes('apolloscape', tmp_path_factory, train=2, val=1, test=1)


def _tiny_lanes(name: str, factory: pytest.TempPathFactory, **images: int) -> Path:
    write = getattr(importlib.import_module(f'perception.lanes.datasets.{name}.mini'), f'write_{name}_mini')
    return _written_once(name, factory, write, detail=.1, length=180.0, workers=1, **images)
