"""DenseNet-121: names, counts, one pass, published weights, ONNX."""
import argparse

import numpy as np
import pytest
import torch

from perception.apis.convert import convert
from perception.apis.export import export
from perception.plugins.medical.convert import densenet as converter
from perception.plugins.medical.models import densenet
from perception.plugins.medical.models.densenet import DenseNet
from perception.utils.checkpoint import start_from
from perception.utils.errors import CheckpointError, ConfigError, DataError


def test_has_the_parameters_and_names_of_the_published_net():
    with torch.device('meta'):
        whole, plain = DenseNet(auxiliary=True), DenseNet()
    assert sum(p.numel() for p in whole.parameters()) == 7_098_019 and len(whole.state_dict()) == 744
    assert sum(p.numel() for p in plain.parameters()) == 7_085_701
    shapes = {name: tuple(value.shape) for name, value in whole.state_dict().items()}
    assert shapes['features.conv0.weight'] == (64, 3, 7, 7)
    assert shapes['features.denseblock1.denselayer1.conv1.weight'] == (128, 64, 1, 1)
    assert shapes['features.denseblock4.denselayer16.conv2.weight'] == (32, 128, 3, 3)
    assert shapes['features.transition3.conv.weight'] == (512, 1024, 1, 1)
    assert shapes['features.norm5.weight'] == shapes['norm_after_b3.weight'] == (1024,)
    assert shapes['fc_layer.weight'] == (128, 1024) and shapes['classifier.weight'] == (5, 128)
    assert shapes['attention_gate.spatial.conv.weight'] == (1, 2, 3, 3)


def test_all_parts_run_once(net):
    net = DenseNet(growth=4, blocks=(2, 2, 2), stem_channels=8, feature_dim=12, auxiliary=True, drop_rate=0.1).train()
    out = net(dict(images=torch.randn(2, 3, 32, 32), labels=torch.tensor([0, 4])), mode='loss')
    assert set(out) == {'loss_cls', 'loss_b3', 'loss_att'}
    assert {int(m.num_batches_tracked) for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1}
    sum(out.values()).backward()
    assert all(p.grad is not None for p in net.parameters())


def test_classes_are_weighted_by_the_training_set():
    net, labels = DenseNet(growth=4, blocks=(2, 2), stem_channels=8), torch.tensor([0] * 1805 + [1] * 370 + [2] * 999
                                                                                 + [3] * 193 + [4] * 295)
    net.know_training_set(labels)
    assert net.class_weights.tolist() == pytest.approx([2.029, 9.897, 3.666, 18.974, 12.414], abs=1e-3)
    outputs, few = dict(logits=torch.randn(4, 5)), torch.tensor([0, 3, 3, 1])
    logs = -outputs['logits'].log_softmax(1)[range(4), few]
    weights = net.class_weights[few]
    assert float(net.loss(outputs, few)['loss_cls']) == pytest.approx(float((weights * logs).sum() / weights.sum()))
    net.know_training_set(torch.tensor([0, 0, 2]))
    assert net.class_weights.tolist() == [1.5, 0, 3, 0, 0]
    with pytest.raises(DataError, match=r'labels \[5\]'):
        net.know_training_set(torch.tensor([5]))


def test_classes_that_count_alike_are_said_once(monkeypatch):
    said, labels = [], torch.tensor([0, 4])
    monkeypatch.setattr(densenet, 'print_log', lambda text, *_: said.append(text))
    for arguments, told, count in ((dict(), False, 1), (dict(), True, 1), (dict(balanced=False), False, 1)):
        net = DenseNet(growth=4, blocks=(2, 2), stem_channels=8, **arguments)
        if told:
            net.know_training_set(labels)
        for _ in range(2):
            net.loss(dict(logits=torch.randn(2, 5)), labels)
        assert len(said) == count and 'all classes count alike' in said[0]


@pytest.mark.parametrize(('inputs', 'match'), [
    (dict(images=torch.zeros(2, 3, 8, 8)), '16 pixels or more'), (dict(images=torch.zeros(2, 1, 32, 32)), '3, H, W'),
    (dict(images=torch.zeros(2, 3, 32, 32)), 'no labels for 2 images'),
    (dict(images=torch.zeros(2, 3, 32, 32), labels=torch.tensor([0, 7])), '0 to 7, expected 0..4')])
def test_wrong_batches_are_refused(net, inputs, match):
    with pytest.raises(DataError, match=match):
        net(inputs, mode='loss')


@pytest.mark.parametrize('arguments', [dict(num_classes=1), dict(blocks=(3,)), dict(drop_rate=1), dict(growth=0)])
def test_wrong_arguments_are_refused(arguments):
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        DenseNet(**arguments)


def test_a_batch_of_one_is_predicted_as_in_a_larger_batch(net):
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        many, one = net(dict(images=images), mode='predict'), net(dict(images=images[1:2]), mode='predict')
    torch.testing.assert_close(many[1].pred_scores, one[0].pred_scores)
    assert float(one[0].pred_scores.sum()) == pytest.approx(1) and one[0].feature.shape == (12,)


def test_a_batch_of_one_is_trained_with_where_there_are_batch_statistics(net):
    labels, net = torch.tensor([1]), net.train()
    with pytest.raises(DataError, match='a batch of one image of 28 x 20 pixels.*29 pixels or more'):
        net(dict(images=torch.randn(1, 3, 28, 20), labels=labels), mode='loss')
    assert all(torch.isfinite(net(dict(images=torch.randn(*shape), labels=labels.expand(shape[0])), mode='loss')
                              ['loss_cls']) for shape in ((2, 3, 28, 20), (1, 3, 29, 20), (1, 3, 20, 32)))


@pytest.fixture(scope='module')
def published():
    """Weights of a DenseNet-121 of torchvision, with the names that it had before 2017."""
    torch.manual_seed(1)
    net = DenseNet()
    weights = {}
    for name, value in net.state_dict().items():
        if name.startswith('features.') and not name.endswith('num_batches_tracked'):
            for part in ('norm', 'conv'):
                for number in '12':
                    if '.denselayer' in name:
                        name = name.replace(f'.{part}{number}.', f'.{part}.{number}.')
            weights[name] = value
    return dict(weights, **{'classifier.weight': torch.zeros(1000, 1024), 'classifier.bias': torch.zeros(1000)})


def test_a_file_of_imagenet_with_old_names_starts_a_training(published, tmp_path):
    assert 'features.denseblock1.denselayer1.norm.1.weight' in published
    torch.save(published, tmp_path / 'old.pth')
    said = convert(argparse.Namespace(source=tmp_path / 'old.pth', target=tmp_path / 'new.pth'))
    assert 'load_from' in said
    net = DenseNet(num_classes=7)
    assert 'new: fc_layer.weight' in start_from(net, tmp_path / 'new.pth')
    assert torch.equal(net.features.denseblock4.denselayer16.conv2.weight,
                       published['features.denseblock4.denselayer16.conv.2.weight'])
    convert(argparse.Namespace(source=tmp_path / 'old.pth', target=tmp_path / 'new.pth'))  # its own work it replaces
    with pytest.raises(DataError, match='old.pth: a file that no command of this project wrote is there'):
        convert(argparse.Namespace(source=tmp_path / 'old.pth', target=tmp_path / 'old.pth'))
    assert torch.load(tmp_path / 'old.pth').keys() == published.keys()


def test_published_weights_of_crckd_are_taken_whole_and_damaged_ones_refused(published):
    whole = {f'densenet121.{name}': value for name, value in DenseNet(num_classes=3).state_dict().items()}
    weights, usage = converter.convert(whole, None)
    assert 'num_classes=3' in usage and not any(name.startswith('densenet121') for name in weights)
    published = dict(published)
    published.pop('features.norm5.weight')
    with pytest.raises(CheckpointError, match=r'1 weights are missing.*features.norm5.weight'):
        converter.convert(published, None)


def test_onnx_runtime_computes_the_same(root, tmp_path):
    runtime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    torch.manual_seed(0)
    from mmengine.registry import MODELS

    from perception.apis.config import load_config
    config = root / 'configs/medical/densenet121_aptos.py'
    model = MODELS.build(load_config(config, mini=True).model).eval()
    torch.save(model.state_dict(), tmp_path / 'model.pth')
    export(config, tmp_path / 'model.pth', tmp_path / 'net.onnx', mini=True)
    images = torch.randint(0, 256, (1, 3, 64, 64)).float()
    with torch.no_grad():
        expected = model(dict(images=model.data_preprocessor.normalise(images)), mode='predict')[0]
    session = runtime.InferenceSession(str(tmp_path / 'net.onnx'), providers=['CPUExecutionProvider'])
    scores, feature = session.run(['scores', 'feature'], dict(images=images.numpy()))
    np.testing.assert_allclose(scores[0], expected.pred_scores.numpy(), atol=1e-5)
    np.testing.assert_allclose(feature[0], expected.feature.numpy(), atol=1e-4)
