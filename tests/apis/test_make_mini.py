"""Mini data sets by the names of their bases."""
import pytest

from perception.apis import mini
from perception.utils.errors import ConfigError

BASE = '''"""A data set."""
from toy_room import write_toy_data

mini_data = dict(type=write_toy_data, root='data/mini/toy')
'''


@pytest.fixture
def bases(toy, tmp_path, monkeypatch):
    """A folder with two bases, one of which has a contact sheet."""
    (tmp_path / 'bases').mkdir()
    for name, more in (('plain', ''), ('sheet', 'mini_sheet = dict(type=draw_toy_sheet)\n')):
        text = BASE.replace('write_toy_data\n', 'draw_toy_sheet, write_toy_data\n', 1) if more else BASE
        (tmp_path / 'bases' / f'{name}.py').write_text(text.replace('toy\'', f'{name}\'') + more)
    monkeypatch.setattr(mini, 'BASES', tmp_path / 'bases')
    monkeypatch.setattr(mini, 'mini_sets', lambda: ['plain', 'sheet'])
    monkeypatch.setenv('PERCEPTION_DATA', str(tmp_path))
    return tmp_path


def test_writes_all_or_one_with_arguments_of_its_writer(bases, tmp_path):
    lines = list(mini.make_mini())
    assert [str(tmp_path / 'mini' / name) in line for name, line in zip(('plain', 'sheet'), lines)] == [True, True]
    list(mini.make_mini(['plain'], root=tmp_path / 'own', options=dict(size=7)))
    assert (tmp_path / 'own/calls.txt').read_text() == '7\n'
    with pytest.raises(ConfigError, match="mini data set='plian', expected one of plain, sheet. Did you mean plain"):
        list(mini.make_mini(['plian']))
    with pytest.raises(ConfigError, match="unknown key 'sise'.*Did you mean size"):
        list(mini.make_mini(['plain'], options=dict(sise=7)))


def test_sheets_are_drawn_by_what_the_base_names(bases, tmp_path):
    list(mini.make_mini(['sheet'], sheet=tmp_path / 'a.png'))
    assert (tmp_path / 'a.png').read_text() == str(tmp_path / 'mini/sheet')
    with pytest.raises(ConfigError, match=r'plain\.py came, expected it to define mini_sheet'):
        list(mini.make_mini(sheet=tmp_path / 'b.png'))
