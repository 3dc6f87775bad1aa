"""Every config builds, survives a dump, keeps the limits, and is listed where users look for it."""
import ast
import functools
import inspect
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import MODELS
from torch import nn

from perception.apis.config import load_config
from perception.common.predictor import Predictor
from perception.common.results import StoredResults
from perception.common.submission import Submission
from perception.distill.teachers import EMATeacher
from perception.prune.search import PEEL

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / 'configs'
BASES = sorted((FOLDER / '_base_').glob('*.py'))
CONFIGS = sorted(p for p in FOLDER.rglob('*.py') if '_base_' not in p.parts)
IDS = [p.relative_to(FOLDER).as_posix() for p in CONFIGS]
ROOMS = {p.name: p for place in ('perception/plugins', 'perception') for p in (ROOT / place).glob('*') if p.is_dir()}
TASKS = sorted(p.name for p in FOLDER.iterdir() if p.name in ROOMS)  # those of plugins too
METHODS = sorted({p.parent.name for p in CONFIGS} - set(TASKS))  # folders of configs without a room of their own
TAUGHT = [p for p in CONFIGS if p.parent.name in METHODS]
MAX_LINES, MAX_DEPTH, MAX_FILES = 60, 3, 8
REQUIRED = ('train_dataloader', 'val_dataloader', 'test_dataloader', 'val_evaluator', 'test_evaluator', 'predictor',
            'mini_data')  # of each data-set base
CALLED = dict(  # key -> base classes, arguments that it is called with
    predictor=((Predictor,), ('model', 'data')), tta_model=((nn.Module,), ('model', 'mode')),
    ensemble_model=((nn.Module,), ('models',)), saved_model=((nn.Module,), ('model', 'folder', 'stamp', 'replace')),
    predictions=((StoredResults,), ('path',)), submission=((Submission,), ('out_dir',)),
    draw=((BaseMetric, Hook), ('out_dir',)),
    more_metrics=((BaseMetric, Hook), ()), mini_data=((), ('root', 'seed', 'force')), mini_sheet=((), ('root', 'path')),
    prune=((PEEL,), ()))


# --- what a config reads ---
@functools.cache
def read_by(path: Path) -> tuple[Path, ...]:
    """The configs that a config reads itself."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = path.parents[node.level - 1]
            target = folder.joinpath(*(node.module or '').split('.')).with_suffix('.py')
            found.append(target)
    return tuple(dict.fromkeys(found))


def known_by(path: Path) -> set[Path]:
    """All files that one must read to know a config."""
    files = {path}
    for other in read_by(path):
        files |= known_by(other)
    return files


def depth(path: Path) -> int:
    """Files from a config to the base that is furthest away."""
    return max((1 + depth(other) for other in read_by(path)), default=0)


def broken_limits(path: Path) -> list[str]:
    """What a config does that makes it hard to know."""
    kind, reads = path.parent.name, read_by(path)
    wrong = []
    if kind == '_base_':
        return [f'{path}: a base reads {other.name}' for other in reads]
    if len(path.read_text().splitlines()) > MAX_LINES:
        wrong.append(f'{path}: more than {MAX_LINES} lines')
    if depth(path) > MAX_DEPTH:
        wrong.append(f'{path}: depth {depth(path)}, at most {MAX_DEPTH}')
    if len(known_by(path)) > MAX_FILES:
        wrong.append(f'{path}: {len(known_by(path))} files to know it, at most {MAX_FILES}')
    tasks = {p.parent.name for p in known_by(path)} & set(TASKS)
    if len(tasks) > 1:
        wrong.append(f'{path}: reads configs of {" and ".join(sorted(tasks))}')
    foreign = [p for p in reads if p.parent.name not in ('_base_', kind, *(TASKS if kind in METHODS else ()))]
    siblings = [p for p in reads if p.parent.name == kind]
    wrong += [f'{path}: reads {p.parent.name}/{p.name}' for p in foreign]
    if kind in METHODS:
        wrong += [f'{path}: a method reads another method, {p.parent.name}/{p.name}' for p in siblings]
    elif any(read_by(p) and {q.parent.name for q in read_by(p)} != {'_base_'} for p in siblings):
        wrong.append(f'{path}: its sibling reads a sibling too')
    elif siblings and '_half' not in path.name:
        wrong.append(f'{path}: a net of full width reads {siblings[0].name}, expected _base_ only')
    return wrong


@pytest.mark.parametrize('path', [*BASES, *CONFIGS], ids=[f'_base_/{p.name}' for p in BASES] + IDS)
def test_keeps_the_limits(path):
    assert not broken_limits(path), '\n'.join(broken_limits(path))


@pytest.mark.parametrize(('name', 'line'), [
    ('_base_/new.py', 'from .runtime import *'),
    ('lidarseg/new.py', 'from ..lanes.enet_culane import *'),
    ('lidarseg/new.py', 'from .cylinder3d_kitti import *'),
    ('lidarseg/new_half.py', 'from .cylinder3d_half_kitti import *'),
    ('pvd/new.py', 'from .cylinder3d_kitti import *'),
    ('kd/new.py', 'from ..pvd.cylinder3d_kitti import *'),
    ('sad/new.py', '\n' * 61)], ids=lambda text: text.strip()[:40] or 'long')
def test_the_limits_catch_what_breaks_them(monkeypatch, name, line):
    path, read = FOLDER / name, Path.read_text
    monkeypatch.setattr(Path, 'read_text', lambda self, *args: line if self == path else read(self, *args))
    read_by.cache_clear()
    assert broken_limits(path)
    read_by.cache_clear()


@pytest.mark.parametrize('path', TAUGHT, ids=[i for i in IDS if i.split('/')[0] in METHODS])
def test_a_method_names_its_loss(path):
    losses = [loss['type'].__name__ for loss in load_config(path).model.get('losses', {}).values()]
    assert all(name in path.read_text() for name in losses), f'{path} does not name {losses}'


# --- what a config names ---
@pytest.mark.parametrize('path', [p for p in BASES if re.search('^train_dataloader = ', p.read_text(), re.M)],
                         ids=lambda p: p.stem)
def test_a_data_set_keeps_the_contract(path):
    cfg = load_config(path)
    absent = [key for key in REQUIRED if cfg.get(key) is None]
    assert not absent, f'{path} lacks {absent}'
    assert ('submission' in cfg) == ('submit_dataloader' in cfg)
    for key, (bases, arguments) in CALLED.items():
        parts = cfg.get(key) or []
        if key == 'more_metrics':
            parts = list(cfg.get(key, {}).values())
        for part in parts if isinstance(parts, list) else [parts]:
            kind = part['type']
            assert not bases or (inspect.isclass(kind) and issubclass(kind, bases)), f'{path}: {key} is a {kind}'
            given = dict.fromkeys(arguments, 0) | {name: 0 for name in part if name != 'type'}
            inspect.signature(kind).bind(**given)


def test_the_contract_can_fail():
    with pytest.raises(TypeError):
        inspect.signature(Submission).bind(folder=0)
    assert not issubclass(Submission, Predictor)


# --- every config ---
def untaught(cfg: Config) -> Config:
    """The config without its teachers' weights, which a fresh clone does not have."""
    for teacher in cfg.model.get('teachers', {}).values():
        if 'trained_by' in teacher:  # a running mean of the student has none
            teacher.trained_by = None
    return cfg


def build(cfg: Config) -> torch.nn.Module:
    """The model without memory for its weights: names and shapes are all that is asked for."""
    with torch.device('meta'):
        return MODELS.build(untaught(cfg).model)


@pytest.mark.parametrize('path', CONFIGS, ids=IDS)
def test_builds_dumps_and_reloads(path, tmp_path):
    cfg = Config.fromfile(path)
    cfg.dump(tmp_path / 'dump.py')
    again = Config.fromfile(tmp_path / 'dump.py', lazy_import=False)
    assert set(again.model) == set(cfg.model)
    model, reloaded = build(cfg), build(again)
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in reloaded.state_dict().items()}


def room_readme(config: Path) -> Path:
    folder = config.parent.name
    room = folder if folder in TASKS else 'prune' if folder == 'peel' else 'distill'
    return ROOMS[room] / 'README.md'


@pytest.mark.parametrize('path', CONFIGS, ids=IDS)
def test_is_listed_in_its_rooms_readme_with_its_parameters(path):
    readme = room_readme(path)
    rows = [line for line in readme.read_text().splitlines() if path.relative_to(ROOT).as_posix() in line]
    assert rows, f'{readme} does not list {path.relative_to(ROOT)}'
    model = build(Config.fromfile(path))
    deployed = getattr(model, 'student', model)
    count = sum(p.numel() for p in deployed.parameters())
    numbers = {int(n.replace(',', '')) for row in rows for n in re.findall(r'\d{1,3}(?:,\d{3})*', row)}
    assert count in numbers, f'{path.name} has {count:,} parameters, its row in {readme} says {numbers}'


@pytest.mark.parametrize('mini', [False, True], ids=['full', 'mini'])
@pytest.mark.parametrize('path', TAUGHT, ids=[i for i in IDS if i.split('/')[0] in METHODS])
def test_a_teacher_is_what_its_own_config_trains(path, mini):
    cfg = load_config(path, mini)
    for teacher in cfg.model.get('teachers', {}).values():
        if teacher.type is EMATeacher:
            assert teacher.model == cfg.model.student, f'{path}: its mean teacher is not the model of its student'
            continue
        trained = load_config(ROOT / teacher.trained_by, mini)
        assert teacher.model == trained.model, f'{path}: its teacher is not the model of {teacher.trained_by}'
        assert teacher.get('mini', False) == mini and 'checkpoint' not in teacher


@pytest.mark.parametrize('path', CONFIGS, ids=IDS)
def test_says_what_it_is_and_has_its_own_mini(path):
    text = path.read_text()
    assert re.search(r'^mini = ', text, re.M), 'each config defines its own mini'
    assert text.startswith('"""'), 'a config starts by saying what it is'
    assert 'work_dir' not in text, 'the work dir follows from the path'
    assert load_config(path).mini_data
