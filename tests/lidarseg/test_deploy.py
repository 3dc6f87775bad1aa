"""LiDAR nets as a graph of points to labels: the labels of the nets themselves."""
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from perception.apis import export
from perception.apis.export import write_program
from perception.lidarseg.deploy import PointsToLabels, traceable
from perception.lidarseg.models.cylinder3d import Cylinder3D
from perception.lidarseg.models.minkunet import MinkUNet
from perception.lidarseg.models.spvcnn import SPVCNN
from perception.lidarseg.models.spvnas import SPVNAS
from perception.lidarseg.preprocessor import CubeVoxelizer, CylinderVoxelizer
from perception.lidarseg.transforms import WithinRange
from perception.utils.errors import ConfigError, DataError


def small(name):
    torch.manual_seed(0)
    more = 2 * name.endswith('+2')  # further features of the data set
    name = name.removesuffix('+2')
    if name in ('minkunet', 'spvcnn'):
        net = dict(minkunet=MinkUNet, spvcnn=SPVCNN)[name](CubeVoxelizer(2.), num_classes=5, width=.125,
                                                           blocks=(1,) * 8, in_channels=4 + more)
    elif name == 'spvnas':
        net = SPVNAS(CubeVoxelizer(2.), num_classes=5, ratio=.25)
    else:
        sharing, _, refine = name.partition(' ')
        net = Cylinder3D(CylinderVoxelizer((48, 36, 8)), num_classes=5, base_channels=2, compression=2,
                         point_widths=(4, 8, 8), refine=refine or None, indice_sharing=sharing, in_channels=9 + more)
    return net.eval()


@pytest.mark.parametrize('name', ['minkunet', 'spvcnn+2', 'spvnas', 'correct', 'correct+2', 'legacy', 'correct mirror'])
def test_the_graph_labels_points_as_the_net_does(name):
    module, points, eager = traceable(small(name))
    for count in (3000, 2):
        with torch.no_grad():
            found, expected = module(points[:count]), eager(points[:count])
        assert found.dtype == torch.int64 and torch.equal(found, expected)
    assert len(found.unique()) >= 1 and not any(isinstance(layer, type(module)) for layer in module.net.modules())


def test_a_program_takes_any_number_of_points(tmp_path):
    module, points, eager = traceable(small('spvcnn'))  # a MinkUNet is part of it
    write_program(module, points[:3000], eager, tmp_path / 'net.pt2', trials=2)  # which compares 3000 and 1500 labels
    assert {path.name for path in tmp_path.iterdir()} == {'net.pt2', '.perception'}
    with pytest.raises(ConfigError, match=r'net.onnx came'):
        write_program(module, points, eager, tmp_path / 'net.onnx')


def test_the_time_of_a_program_is_that_of_the_whole_scan(tmp_path, monkeypatch):
    sizes, lines = [], []

    def run(points):
        sizes.append(len(points))
        return torch.zeros(len(points))

    monkeypatch.setattr(torch.export, 'export', lambda *args, **options: None)
    monkeypatch.setattr(torch.export, 'save', lambda program, path: Path(path).write_bytes(b''))
    monkeypatch.setattr(torch.export, 'load', lambda path: SimpleNamespace(module=lambda: run))
    monkeypatch.setattr('perception.apis.export.print_log', lambda text, *args: lines.append(text))
    monkeypatch.setattr('gc.collect', lambda: 0)  # which takes its time
    write_program(torch.nn.Identity(), torch.rand(9, 4), run, tmp_path / 'x.pt2', trials=2)
    assert sizes == [9, 9, 4, 4] + 2 * 3 * [9]  # compared on parts, timed on all
    assert '; 9 points take ' in lines[0]


def test_what_points_pass_before_the_net_is_named_where_the_program_lacks_it(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(export, 'print_log', lambda text, *_: said.append(text))
    monkeypatch.setattr(export, 'write_program', lambda *_: None)
    for pipeline in ([], [WithinRange(25)]):
        monkeypatch.setattr(export, 'load', lambda *_, steps=pipeline, **__: SimpleNamespace(
            model=SimpleNamespace(traceable=tuple), pipeline=steps))
        assert export.export('config.py', tmp_path / 'model.pth') == tmp_path / 'model.pt2'
    assert len(said) == 1 and 'tested on points after WithinRange, which is not in the file' in said[0]


def test_a_program_that_labels_otherwise_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.export, 'export', lambda *args, **options: None)
    monkeypatch.setattr(torch.export, 'save', lambda program, path: None)
    monkeypatch.setattr(torch.export, 'load', lambda path: torch.nn.Module())
    monkeypatch.setattr(torch.nn.Module, 'module', lambda self: lambda points: torch.ones(len(points)), raising=False)
    with pytest.raises(DataError, match=r'100.00% of the labels'):
        write_program(torch.nn.Identity(), torch.rand(9, 4), lambda points: torch.zeros(len(points)),
                      tmp_path / 'x.pt2')
    assert not list(tmp_path.iterdir())


def test_other_nets_are_refused():
    with pytest.raises(ConfigError, match='Linear, expected'):
        PointsToLabels(torch.nn.Linear(4, 2))
