"""Every config builds, survives a dump, and is listed where users look for it."""
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from perception.apis.config import load_config

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(p for p in (ROOT / 'configs').rglob('*.py') if '_base_' not in p.parts)
IDS = [p.relative_to(ROOT / 'configs').as_posix() for p in CONFIGS]
METHODS = ('pvd', 'sad', 'intra_kd', 'kd', 'cd', 'ifv', 'skd', 'ka', 'at', 'fm', 'crckd', 'stylekd', 'peel')


def room_readme(config: Path) -> Path:
    folder = config.parent.name
    return ROOT / 'perception' / ('distill' if folder in METHODS else folder) / 'README.md'


def dict_ids(value, found: set) -> set:
    if isinstance(value, dict):
        found.add(id(value))
        for item in value.values():
            dict_ids(item, found)
    elif isinstance(value, (list, tuple)):
        for item in value:
            dict_ids(item, found)
    return found


def student_only(cfg: Config) -> Config:
    """The config without its teachers' checkpoints, which a fresh clone does not have."""
    for teacher in cfg.model.get('teachers', {}).values():
        if isinstance(teacher, dict):
            teacher.checkpoint = None
    return cfg


def build(cfg: Config) -> torch.nn.Module:
    """The model without memory for its weights: names and shapes are all that is asked for."""
    with torch.device('meta'):
        return MODELS.build(student_only(cfg).model)


@pytest.mark.parametrize('path', CONFIGS, ids=IDS)
def test_builds_dumps_and_reloads(path, tmp_path):
    cfg = Config.fromfile(path)
    cfg.dump(tmp_path / 'dump.py')
    again = Config.fromfile(tmp_path / 'dump.py', lazy_import=False)
    assert set(again.model) == set(cfg.model)
    model, reloaded = build(cfg), build(again)
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in reloaded.state_dict().items()}


@pytest.mark.parametrize('path', CONFIGS, ids=IDS)
def test_is_listed_in_its_rooms_readme_with_its_parameters(path):
    readme = room_readme(path)
    rows = [line for line in readme.read_text().splitlines() if path.relative_to(ROOT).as_posix() in line]
    assert rows, f'{readme} does not list {path.relative_to(ROOT)}'
    model = build(Config.fromfile(path))
    deployed = getattr(model, 'student', model)
    count = sum(p.numel() for p in deployed.parameters())
    numbers = {int(n.replace(',', '')) for row in rows for n in re.findall(r'\d{1,3}(?:,\d{3})+', row)}
    assert count in numbers, f'{path.name} has {count:,} parameters, its row in {readme} says {numbers}'


@pytest.mark.parametrize('path', [p for p in CONFIGS if p.parent.name in METHODS],
                         ids=[i for i in IDS if i.split('/')[0] in METHODS])
def test_teacher_and_student_share_no_object(path):
    model = Config.fromfile(path).model.to_dict()
    student = dict_ids(model['student'], set())
    for teacher in model.get('teachers', {}).values():
        if isinstance(teacher, dict):
            assert not student & dict_ids(teacher['model'], set())


@pytest.mark.parametrize('path', CONFIGS, ids=IDS)
def test_says_what_it_is_and_has_its_own_mini(path):
    text = path.read_text()
    assert re.search(r'^mini = ', text, re.M), 'each config defines its own mini'
    assert re.search(r'^mini_data = ', text, re.M) or 'import *' in text
    assert text.startswith('"""'), 'a config starts by saying what it is'


def test_no_two_configs_share_a_work_dir():
    dirs = [load_config(path, mini).work_dir for path in CONFIGS for mini in (False, True)]
    assert len(set(dirs)) == len(dirs), sorted(dirs)
