"""ONNX files of lane nets: they compute what PyTorch computes, and know nothing of distillation."""
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from perception.apis import export as module
from perception.apis.compiled import compile_net
from perception.apis.config import load_config
from perception.apis.export import compare, export, open_session, to_onnx
from perception.apis.exported import ExportedNet
from perception.apis.inference import load
from perception.registry import MODELS
from perception.utils.errors import CheckpointError, ConfigError, DataError, MissingDependency

onnx = pytest.importorskip('onnx', reason='the extra onnx is not installed')
pytest.importorskip('onnxruntime', reason='the extra onnx is not installed')
CONFIGS = dict(alone='configs/lanes/enet_culane.py', distilled='configs/sad/enet_culane.py')
NETS = ('scnn', 'pspnet', 'agnostic')  # the others: tests/lanes/models, and ENet here


def deployable(config, size=(48, 96)):
    """What is exported of a mini net with random weights, for images of that size."""
    return MODELS.build(load_config(config, mini=True, options={'model.input_size': size}).model).deployable()


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """Weights of the mini ENet and of the same net inside a SAD distiller, and the ONNX file made of the latter."""
    folder = tmp_path_factory.mktemp('weights')
    for name, config in CONFIGS.items():
        torch.manual_seed(0)
        torch.save(MODELS.build(load_config(config, mini=True).model).state_dict(), folder / f'{name}.pth')
    assert export(CONFIGS['distilled'], folder / 'distilled.pth', mini=True, trials=2) == folder / 'distilled.onnx'
    return folder


def test_a_distilled_net_exports_what_the_net_alone_does(exported):
    alone, distilled = (load(CONFIGS[name], exported / f'{name}.pth', device='cpu', mini=True).model
                        for name in CONFIGS)
    assert type(distilled) is type(alone)
    nets, inputs, outputs = zip(*(model.deployable() for model in (alone, distilled)))
    assert str(nets[0]) == str(nets[1]) and outputs[0] == outputs[1]
    weights = [net.state_dict() for net in nets]
    assert [(k, v.shape) for k, v in weights[0].items()] == [(k, v.shape) for k, v in weights[1].items()]
    graph = onnx.load(exported / 'distilled.onnx').graph
    assert len(graph.node) > 100 and not any('teacher' in w.name or 'losses' in w.name for w in graph.initializer)


def test_a_file_says_what_it_takes_and_takes_any_batch(exported):
    notes = {note.key: json.loads(note.value) for note in onnx.load(exported / 'distilled.onnx').metadata_props}
    assert notes == dict(config='enet_culane.py', classes=['background', 'left-left', 'left', 'right', 'right-right'])
    session = open_session(exported / 'distilled.onnx', threads=1)
    assert [value.name for value in session.get_inputs()] == ['images']
    images = np.random.default_rng(0).uniform(0, 255, (3, 3, 112, 320)).astype(np.float32)
    assert [value.shape for value in session.run(None, dict(images=images))] == [(3, 5, 112, 320), (3, 4)]


@pytest.mark.parametrize('net', NETS)
def test_every_net_computes_the_same_in_onnx_runtime(net, tmp_path):
    torch.manual_seed(0)
    net, inputs, outputs = deployable(f'configs/lanes/{net}_culane.py')
    to_onnx(net, inputs, outputs, tmp_path / 'x.onnx')
    assert compare(net, inputs, tmp_path / 'x.onnx', trials=2) < 1e-4


def test_normalisation_is_inside():
    net, inputs, outputs = deployable('configs/lanes/erfnet_culane.py')
    assert outputs == ['logits', 'exist_logits']
    with torch.no_grad():
        expected = net.model.compute(net.model.data_preprocessor.normalise(inputs['images']))['logits']
        assert torch.equal(net(inputs['images'])[0], expected)


def test_a_file_that_computes_something_else_is_not_left(exported, monkeypatch, tmp_path):
    def spoiled(net, inputs, outputs, path, notes):
        shutil.copy(exported / 'distilled.onnx', path)
        with torch.no_grad():
            next(net.parameters()).add_(1)

    monkeypatch.setattr(module, 'to_onnx', spoiled)
    with pytest.raises(DataError, match=r'of ONNX Runtime, .* differs from PyTorch'):
        export(CONFIGS['alone'], exported / 'alone.pth', tmp_path / 'deep/x.onnx', mini=True)
    assert not list((tmp_path / 'deep').iterdir())


def test_what_cannot_be_exported(exported, monkeypatch, tmp_path):
    config = 'configs/lidarseg/spvcnn_half_kitti.py'
    torch.save(MODELS.build(load_config(config, mini=True).model).state_dict(), tmp_path / 'c.pth')
    monkeypatch.delattr('perception.lidarseg.models.minkunet.MinkUNet.traceable')
    with pytest.raises(ConfigError, match=r'SPVCNN has no deployable\(\), expected a net that can be exported'):
        export(config, tmp_path / 'c.pth', mini=True)
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    with pytest.raises(MissingDependency, match=r"onnxscript cannot be imported.*pip install -e '\.\[onnx\]'"):
        export(CONFIGS['alone'], exported / 'alone.pth', tmp_path / 'x.onnx', mini=True)


@pytest.mark.parametrize(('out', 'trials', 'error', 'message'), [
    ('.', 1, DataError, 'a folder came, expected the name of the file'),
    ('file/x.onnx', 1, DataError, r'file: .*exists where results are to be written, expected a folder'),
    ('x.onnx', 0, ConfigError, '--trials: 0 came, expected at least 1')])
def test_a_place_that_cannot_be_written_is_found_before_the_work(tmp_path, out, trials, error, message):
    (tmp_path / 'file').write_text('x')
    with pytest.raises(error, match=message):
        export(CONFIGS['alone'], tmp_path / 'not_even_read.pth', tmp_path / out, mini=True, trials=trials)


def test_the_tool_explains_itself(root):
    run = subprocess.run([sys.executable, root / 'tools/export.py', '--help'], capture_output=True, text=True)
    assert run.returncode == 0 and 'lanes/enet_culane_mini/model.pth --mini' in run.stdout, run.stderr


def test_no_file_of_other_origin_is_replaced(exported, monkeypatch):
    weights = (exported / 'alone.pth').read_bytes()
    monkeypatch.setattr(module, 'to_onnx', lambda *_: pytest.fail('the work had begun'))
    with pytest.raises(DataError, match=r'alone.pth: a file that no command of this project wrote is there'):
        export(CONFIGS['alone'], exported / 'alone.pth', exported / 'alone.pth', mini=True)
    assert (exported / 'alone.pth').read_bytes() == weights


def test_a_file_stands_in_for_the_checkpoint(exported):
    """The two have equal weights: the same seed, and the distiller builds its student first."""
    image = np.random.default_rng(0).integers(0, 255, (590, 1640, 3), np.uint8)
    predictor = load(CONFIGS['distilled'], exported / 'distilled.onnx', mini=True)
    ours = predictor(image)
    theirs = load(CONFIGS['distilled'], exported / 'distilled.pth', 'cpu', mini=True)(image)
    torch.testing.assert_close(ours.lane_probs, theirs.lane_probs, atol=1e-4, rtol=0)
    assert ours.lane_probs.std() > 1e-3 and set(ours.keys()) == set(theirs.keys())
    with pytest.raises(DataError, match=r'images of \(3, 48, 90\), expected \(3, 112, 320\)'):
        predictor.model.test_step(dict(inputs=dict(image=[torch.zeros(3, 48, 90, dtype=torch.uint8)])))
    for use, message in ((lambda: compile_net(predictor.model), 'Leave the option out'),
                         (lambda: predictor.stage_maps(image), 'ExportedNet has no stages'),
                         (lambda: ExportedNet(torch.nn.Linear(1, 1), exported / 'distilled.onnx'), 'Linear came with')):
        with pytest.raises(ConfigError, match=message):
            use()
    with pytest.raises(ConfigError, match='--tta scales: .*distilled.onnx came'):
        load('configs/lanes/erfnet_apolloscape.py', exported / 'distilled.onnx', mini=True, tta='scales')


def test_a_file_that_does_not_fit_is_refused(exported, tmp_path):
    path = exported / 'distilled.onnx'
    (tmp_path / 'bad.onnx').write_bytes(path.read_bytes()[:999])
    for file, options, message in (
            (path, {'model.input_size': (48, 96)}, r'images \(B, 3, 112, 320\), .*expected images \(B, 3, 48, 96\)'),
            (path, {'model.num_classes': 4}, r'logits \(B, 5, 112, .*expected .*\(B, 4, 112'),
            (tmp_path / 'bad.onnx', {}, 'bad.onnx: not readable'), (tmp_path / 'no.onnx', {}, 'no.onnx: no such file')):
        with pytest.raises(CheckpointError, match=message):
            load(CONFIGS['alone'], file, mini=True, options=options)
