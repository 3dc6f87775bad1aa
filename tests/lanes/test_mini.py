"""What holds for every mini data set: splits that share no street, the same bytes again, arguments that are checked."""
import importlib
import json
from collections import defaultdict

import cv2
import pytest

from perception.lanes import mini
from perception.lanes.datasets.tusimple.mini import write_tusimple_mini
from perception.lanes.datasets.tusimple.reader import TuSimple
from perception.utils.errors import DataError

TINY = dict(train=1, val=1, test=1, detail=.1, length=180.0, workers=1)
MODULES = {name: importlib.import_module(f'perception.lanes.datasets.{name}.mini')
           for name in ('culane', 'tusimple', 'bdd100k', 'llamas', 'apolloscape')}
WRITERS = {name: getattr(module, f'write_{name}_mini') for name, module in MODULES.items()}


def files(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob('*')) if path.is_file()}


def test_no_two_sets_share_a_street():
    codes = [module.SET.code for module in MODULES.values()]
    assert len(set(codes)) == len(codes) and all(module.SET.name == name for name, module in MODULES.items())


def test_splits_share_no_street(monkeypatch, tmp_path):
    for name, write in WRITERS.items():
        taken = defaultdict(list)

        def take(plans, spec, save, root, taken=taken, **_):
            taken['seeds'] += [plan.seed for plan in plans]
            taken['names'] += [one for plan in plans for one in plan.names]
            return [[dict(h_samples=[], raw_file='') if 'tusimple' in str(root) else 'x'] * len(plan.names)
                    for plan in plans]
        monkeypatch.setattr(mini, 'take_all', take)
        write(tmp_path / name)
        assert len(set(taken['seeds'])) == len(taken['seeds'])
        assert len(set(taken['names'])) == len(taken['names'])


def test_same_seed_same_bytes_for_any_number_of_workers(tmp_path):
    first = write_tusimple_mini(tmp_path / 'a', **TINY)
    stamp = (first / 'mini.json').stat().st_mtime_ns
    assert write_tusimple_mini(first, **TINY) == first
    assert (first / 'mini.json').stat().st_mtime_ns == stamp                # complete, so it is kept
    second = write_tusimple_mini(tmp_path / 'b', **dict(TINY, workers=2))
    assert files(first) == files(second)
    assert json.loads((first / 'mini.json').read_text())['simulated'] is True


@pytest.mark.parametrize('bad', [dict(train=0), dict(test=1001), dict(seed=-1), dict(detail=0.0), dict(detail=1.5),
                                 dict(length=100.0), dict(workers=-1)])
@pytest.mark.parametrize('name', WRITERS)
def test_arguments_out_of_range_are_refused(tmp_path, name, bad):
    with pytest.raises(DataError, match=f'write_{name}_mini.*expected'):
        WRITERS[name](tmp_path / 'a', **bad)
    assert not list(tmp_path.iterdir())


def test_the_sheet_shows_every_split(mini_tusimple, tmp_path):
    image = cv2.imread(str(mini.draw_sheet(mini_tusimple, tmp_path / 'sheet.png', TuSimple)))
    assert image.shape[0] > 2 * 270 and 1900 < image.shape[1] <= 1920
    with pytest.raises(DataError):
        mini.draw_sheet(tmp_path / 'nowhere', tmp_path / 'sheet.png', TuSimple)
