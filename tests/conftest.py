"""Fixtures that several rooms share."""
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


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


@pytest.fixture(scope='session')
def mini_kitti(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SemanticKITTI of simulated scans with few columns: sequences 00 (3 scans), 08 (2), 11 to 21 (1 each)."""
    from perception.lidarseg.mini import write_semantickitti_mini
    return write_semantickitti_mini(tmp_path_factory.mktemp('mini') / 'semantickitti', train_scans=(3,), val_scans=2,
                                    columns=260, interval=0.8)
