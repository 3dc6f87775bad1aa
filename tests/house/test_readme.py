"""What the READMEs tell people to type exists and parses."""
import functools
import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
READMES = sorted(p for p in ROOT.rglob('README.md') if '.venv' not in p.parts and 'work_dirs' not in p.parts)
COMMAND = re.compile(r'(?:^|\s|`)((?:tools/\w+\.py|make [a-z]+)[^`\n#|]*)')


def commands() -> list[tuple[str, str]]:
    found = []
    for readme in READMES:
        found += [(readme.relative_to(ROOT).as_posix(), match.strip()) for match in COMMAND.findall(readme.read_text())]
    return sorted(set(found))


@functools.cache
def help_text(tool: str, sub: str | None) -> str:
    words = [sys.executable, ROOT / tool, *([sub] if sub else []), '--help']
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def unfolded(word: str) -> list[str]:
    """What a shell makes of `a{b,c}d`."""
    found = re.fullmatch(r'(.*)\{(.*)\}(.*)', word)
    return [word] if not found else [f'{found[1]}{part}{found[3]}' for part in found[2].split(',')]


def test_the_readme_names_the_two_commands():
    text = (ROOT / 'README.md').read_text()
    assert 'make demo' in text
    assert 'make test' in text


@pytest.mark.parametrize(('readme', 'command'), commands())
def test_command_of_a_readme_exists(readme, command):
    words = shlex.split(command.replace('...', ' '))
    if words[0] == 'make':
        targets = re.findall(r'^([a-z]+):', (ROOT / 'Makefile').read_text(), re.M)
        assert words[1] in targets, f'{readme}: no target {words[1]}'
        return
    assert (ROOT / words[0]).is_file(), f'{readme}: {words[0]} does not exist'
    for word in [part for whole in words[1:] for part in unfolded(whole)]:
        if word.startswith('configs/') and word.endswith('.py'):
            assert list(ROOT.glob(word)), f'{readme}: {word} does not exist'
    flags = [word.split('=')[0] for word in words[1:] if word.startswith('--')]
    if flags:
        text = help_text(words[0], words[1] if words[0] in ('tools/benchmark.py', 'tools/look.py') else None)
        assert all(flag in text for flag in flags), f'{readme}: {command}: {flags} against\n{text}'


def options() -> list[tuple[str, str]]:
    """Commands that change values of one config."""
    return [(readme, command) for readme, command in commands() if '--cfg-options' in command
            and re.match(r'tools/(train|test|visualize|look)\.py (\w+ )?configs/', command)]


@pytest.mark.parametrize(('readme', 'command'), options())
def test_options_of_a_readme_are_those_of_its_config(readme, command):
    from perception.apis.config import load_config, parse_options
    words = shlex.split(command)
    config = next(word for word in words if word.startswith('configs/'))
    changes = itertools.takewhile(lambda word: not word.startswith('--'), words[words.index('--cfg-options') + 1:])
    load_config(ROOT / config, '--mini' in words, parse_options(changes))


@pytest.mark.parametrize('readme', READMES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(readme):
    targets = re.findall(r'\]\((?!https?:|#)([^)#]+)', readme.read_text())
    missing = [target for target in targets if not (readme.parent / target).exists()]
    assert not missing, f'{readme}: {missing}'
