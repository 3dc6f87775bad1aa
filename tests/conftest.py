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
