"""Training by two optimisers: bit-exact resume, what learns when, pictures; metrics; the predictor."""
import json
import shutil
from copy import deepcopy
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from perception.apis.config import load_config
from perception.apis.runner import Runner
from perception.apis.test import test as evaluate
from perception.common.digits import digits
from perception.common.finite import FiniteSteps
from perception.common.measure import count_parameters
from perception.common.visual.canvas import text_width
from perception.distill.teachers import FrozenTeacher
from perception.plugins.gan.datasets.digits.reader import DigitReader
from perception.plugins.gan.draw import draw_grid
from perception.plugins.gan.losses import FeatureMimicLoss
from perception.plugins.gan.metrics import (
    ConsistencyMetric,
    ImageMetric,
    RandomFeatures,
    frechet_distance,
    path_scores,
    precision_recall,
    small,
    trimmed,
)
from perception.plugins.gan.models import adversarial as adversarial_model
from perception.plugins.gan.models.adversarial import AdversarialModel, LazyAdam, StepDistributed
from perception.plugins.gan.models.discriminator import StyleGAN2Discriminator
from perception.plugins.gan.models.generator import to_bytes
from perception.plugins.gan.models.inception import Inception, InceptionFeatures
from perception.plugins.gan.models.stylegan2 import StyleGAN2
from perception.plugins.gan.models.stylegan3 import StyleGAN3
from perception.plugins.gan.predictor import SeedPredictor, parse_seeds
from perception.plugins.gan.structures import ImageSample
from perception.registry import MODELS
from perception.utils.checkpoint import save_atomic, start_from
from perception.utils.errors import CheckpointError, ConfigError, DataError, TrainingError
from tests.plugins.gan.conftest import SLIM, generator

OPTIONS = {
    'model.student.channels': [6] * 8, 'model.student.style_dim': 8, 'model.student.num_mlp': 1,
    'model.discriminator.channels': [4, 4, 4, 4], 'train_dataloader.batch_size': 4, 'train_cfg.max_iters': 6,
    'train_cfg.val_interval': 6, 'default_hooks.checkpoint.interval': 2, 'default_hooks.checkpoint.max_keep_ckpts': -1,
    'model.path_every': 2, 'model.r1_every': 3, 'val_dataloader.dataset.count': 16,
    'model.augment': dict(type='AdaptiveAugment', p=0.5, kimg=0.1, every=3)}


def images(batch=4):
    made = torch.randint(0, 256, (batch, 3, 16, 16), dtype=torch.uint8)
    return dict(inputs=dict(image=list(made)), data_samples=None)


def build(root, folder, **options):
    cfg = load_config(root / 'configs/gan/stylegan2_digits.py', mini=True, options=OPTIONS)
    cfg.default_hooks.samples.interval = 3
    for key, value in options.items():
        cfg.merge_from_dict({key.replace('__', '.'): value})
    cfg.work_dir = str(folder)
    return Runner.from_cfg(cfg)


@pytest.fixture(scope='module')
def whole(root, mini_set, tmp_path_factory):
    """A training of six iterations; its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PERCEPTION_DATA', str(mini_set('digits').parents[1]))
        folder = tmp_path_factory.mktemp('whole')
        build(root, folder).train()
        yield folder


def test_a_resumed_training_ends_with_the_same_weights(root, whole, tmp_path):
    build(root, tmp_path, resume=True, load_from=str(whole / 'iter_4.pth')).train()
    one, two = (torch.load(folder / 'iter_6.pth', weights_only=True) for folder in (whole, tmp_path))
    assert all(torch.equal(value, two['state_dict'][name]) for name, value in one['state_dict'].items())
    assert int(one['state_dict']['iteration']) == 6 and float(one['state_dict']['path_mean']) > 0
    assert float(one['state_dict']['augment.p']) != 0.5
    assert set(one['optimizer']) >= {'generator', 'discriminator'}
    mean, latest = (one['state_dict'][f'{who}.conv1.conv.weight'] for who in ('student', 'generator'))
    assert 0 < (mean - latest).abs().max() < 0.1
    assert sorted(path.name for path in (whole / 'samples').glob('*.png')) == ['000003.png', '000006.png']
    deployed = torch.load(whole / 'model.pth', weights_only=True)
    assert 'style.1.weight' in deployed and 'rFID-20220818' in next(whole.rglob('*.log')).read_text()


@pytest.mark.parametrize(('named', 'rate', 'said'), [
    (['optim_wrapper.lr'], 0.1, 'optim_wrapper.lr is 0.1 from now on'), ([], 0.002, 'optim_wrapper.lr stays 0.002')])
def test_the_rate_of_a_resumed_training(root, whole, tmp_path, named, rate, said):
    runner = build(root, tmp_path, resume=True, load_from=str(whole / 'iter_6.pth'), optim_wrapper__lr=0.1)
    runner.options = named
    runner.train()  # it was complete
    groups = {name: wrapper.param_groups[0] for name, wrapper in runner.optim_wrapper.items()}
    assert groups['generator']['lr'] == pytest.approx(rate * 2 / 3)
    assert groups['discriminator']['lr'] == pytest.approx(rate * 3 / 4)
    assert said in next(tmp_path.rglob('*.log')).read_text()


def test_what_learns_in_a_step(adversarial):
    model = adversarial()
    wrapper = LazyAdam(dict(lr=0.01))(model)
    assert wrapper['generator'].optimizer.param_groups[0]['lr'] == pytest.approx(0.01 * 4 / 5)
    assert wrapper['discriminator'].optimizer.param_groups[0]['betas'] == (0.0, 0.99 ** (16 / 17))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    logs = model.train_step(images(), wrapper)
    assert {'loss', 'loss_d', 'loss_r1', 'loss_g', 'loss_path', 'loss_l1', 'loss_lpips_pseudo_lpips',
            'loss_relation'} <= set(logs)
    assert all(torch.isfinite(value) for value in logs.values())
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {'generator.style.1.weight', 'student.style.1.weight', 'discriminator.convs.0.0.weight'} <= moved
    assert not any(name.startswith('teachers') for name in before)
    logs = model.train_step(images(), wrapper)
    assert 'loss_r1' not in logs and 'loss_path' not in logs


def test_the_mean_of_a_short_training_is_not_of_the_weights_it_began_with(adversarial):
    model = adversarial(taught=False, ramp=0.5)
    weight, mean = model.generator.style[1].weight, model.student.style[1].weight
    torch.nn.init.zeros_(mean)
    torch.nn.init.ones_(weight)
    model._average(0)
    assert (mean == 1).all()
    torch.nn.init.zeros_(weight)
    model._average(4)  # a half-life of two iterations
    torch.testing.assert_close(mean, torch.full_like(mean, 0.5 ** 0.5))
    torch.nn.init.ones_(mean)
    model._average(10 ** 6)
    torch.testing.assert_close(mean, torch.full_like(mean, model.decay))


def test_features_are_mimicked_through_learned_adapters(adversarial):
    model = adversarial(losses=dict(mimic=FeatureMimicLoss('t', {0: (4, 8), 1: (4, 8)})), directions='random')
    before = model.losses['mimic'].adapters['0'].weight.detach().clone()
    logs = model.train_step(images(), LazyAdam(dict(lr=0.01))(model))
    assert logs['loss_mimic'] > 0 and not torch.equal(model.losses['mimic'].adapters['0'].weight, before)
    features = dict(features=[torch.ones(2, 4, 2, 2)])
    for layer, came in ((0, r'\[4, 4\]'), (3, 'None')):
        with pytest.raises(ConfigError, match=came):
            FeatureMimicLoss('t', {layer: (4, 8)})(features, features, {})


def test_a_teacher_with_more_layers_makes_images_of_the_same_latent():
    torch.manual_seed(0)
    deep, flat = (StyleGAN3(16, 12, 1, num_layers=count, channels=[4] * (count + 1)) for count in (6, 4))
    judge = dict(type=StyleGAN2Discriminator, size=16, channels=[4, 6, 6])
    options = dict(discriminator=judge, start='mapping', teachers=dict(
        t=FrozenTeacher(AdversarialModel(deep, judge), {})))
    model = AdversarialModel(flat, mixing=0.0, **options)
    plan = model._plan(2, torch.Generator().manual_seed(0))
    latents = model._of_plan(model.teacher, plan)
    assert torch.equal(latents, deep.mix(deep.mapping(plan[0])))
    with pytest.raises(ConfigError, match='mixing=0.9 with 8 latents of the teacher and 6 of the student'):
        AdversarialModel(flat, **options)


def test_a_mapping_that_does_not_learn(adversarial):
    model = adversarial()
    before = model.generator.style[1].weight.detach().clone()
    model.train_step(images(), LazyAdam(dict(lr=0.01, lr_mapping=0.0))(model))
    assert torch.equal(model.generator.style[1].weight, before)


def test_a_fresh_student_has_a_mapping_of_its_own():
    student = dict(type=StyleGAN2, size=16, style_dim=12, num_mlp=2, channels=SLIM)
    judge = dict(type=StyleGAN2Discriminator, size=16, channels=[4, 6, 6])
    alone = dict(type=AdversarialModel, student=student, discriminator=judge)
    torch.manual_seed(0)
    first = MODELS.build(alone).student.style[1].weight  # as a teacher of this seed begins
    torch.manual_seed(0)
    taught = MODELS.build(dict(alone, teachers=dict(t=dict(type=FrozenTeacher, model=alone, taps={}))))
    assert float((taught.student.style[1].weight * first).mean().abs()) < 0.5 * float(first.square().mean())


def test_the_same_nets_and_noise_agree(adversarial):
    model = adversarial(losses={})
    model.generator = model.teacher
    draw = torch.Generator().manual_seed(0)
    plan, noise = model._plan(2, draw), model._noise(draw, 4)
    offsets = model._offsets(2, draw)
    one, two = (model._made(net, plan, offsets, noise).image for net in (model.generator, model.teacher))
    assert torch.equal(one, two) and offsets.shape == (2, 1, 12)


@pytest.mark.parametrize('free', [False, True], ids=['StyleGAN2', 'StyleGAN3'])
def test_two_processes_learn_the_same(adversarial, two_processes, free):
    def work(rank):
        model = adversarial(free=free)
        if rank:  # other weights, which the wrapper makes equal
            torch.nn.init.normal_(model.generator.style[1].weight)
        wrapped, wrapper = StepDistributed(model, broadcast_buffers=False), LazyAdam(dict(lr=0.01))(model)
        torch.manual_seed(rank)
        logs = [wrapped.train_step(images(), wrapper) for _ in range(2)]
        return model.state_dict(), [float(log['loss_d']) for log in logs]
    (one, losses), (two, others) = two_processes(work)
    assert losses != others and int(one['iteration']) == 2 and float(one['path_mean']) > 0
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_training_starts_from_the_weights_of_a_generator(adversarial):
    model, trained = adversarial(taught=False), generator(SLIM)
    start_from(model, dict(trained.state_dict()))
    model.train_step(images(), LazyAdam(dict(lr=1e-6))(model))
    for net in (model.generator, model.student):
        assert torch.allclose(net.conv1.conv.weight, trained.conv1.conv.weight, atol=1e-4)


def test_arguments_that_do_not_fit(adversarial):
    with pytest.raises(ConfigError, match="start='mapping' without a teacher"):
        adversarial(taught=False, start='mapping')
    for name, value in dict(mixing=2, r1=float('nan'), path=float('inf'), ramp=-1, seed=-1).items():
        with pytest.raises(ConfigError, match=f'{name}={value}'):
            adversarial(**{name: value})
    with pytest.raises(ConfigError, match='positive rates'):
        LazyAdam(dict(lr=float('nan')))
    with pytest.raises(ConfigError, match='a discriminator of 32 pixels for a generator of 16'):
        AdversarialModel(generator(SLIM), StyleGAN2Discriminator(32, channels=[4] * 4))
    with pytest.raises(ConfigError, match='momentum'):
        LazyAdam(dict(lr=0.1, momentum=0.9))
    assert not adversarial(losses=dict(l1=None)).losses
    model = adversarial(taught=False)
    with pytest.raises(DataError, match='8 x 8 pixels for a generator of 16'):
        batch = dict(inputs=dict(image=[torch.zeros(3, 8, 8, dtype=torch.uint8)] * 2), data_samples=None)
        model.train_step(batch, LazyAdam(dict(lr=0.1))(model))


def test_a_loss_that_is_not_finite_ends_the_training(root, whole, tmp_path):
    with pytest.raises(TrainingError, match='loss_[dg] is nan.*There is no checkpoint yet'):
        build(root, tmp_path, optim_wrapper__lr=1e30).train()


def test_a_skipped_step_undoes_the_discriminators_too(root, whole, tmp_path, monkeypatch):
    states, take, loss, count = [], FiniteSteps.__call__, adversarial_model.generator_loss, [0]

    def state(runner):
        nets = [wrapper.optimizer.state_dict()['state'] for wrapper in runner.optim_wrapper.values()]
        return deepcopy([runner.model.state_dict(), *nets])

    def watch(self, batch):
        before, outputs = state(self.runner), take(self, batch)
        states.append((bool(outputs), before, state(self.runner)))
        return outputs

    def spoilt(scores):
        count[0] += 1
        return loss(scores) * (float('nan') if count[0] == 2 else 1)

    monkeypatch.setattr(FiniteSteps, '__call__', watch)
    monkeypatch.setattr(adversarial_model, 'generator_loss', spoilt)
    runner = build(root, tmp_path, train_cfg__max_iters=3)
    runner.allow_nan = 1
    runner.train()
    assert [taken for taken, _, _ in states] == [True, False, True]
    torch.testing.assert_close(states[1][2], states[1][1], rtol=0, atol=0)


# --- metrics ---
def test_frechet_distance_of_known_distributions():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, 5))
    assert frechet_distance(rows, rows) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(rows, rows + 2) == pytest.approx(20, rel=1e-9)
    assert frechet_distance(rows, 3 * rows - 2 * rows.mean(0)) == pytest.approx(4 * np.trace(np.cov(rows.T)), rel=1e-9)
    from scipy.linalg import sqrtm
    other = rng.normal(size=(300, 5)) @ rng.normal(size=(5, 5))
    root = sqrtm(np.cov(rows.T) @ np.cov(other.T)).real
    expected = np.square(rows.mean(0) - other.mean(0)).sum() + np.trace(np.cov(rows.T) + np.cov(other.T) - 2 * root)
    assert frechet_distance(rows, other) == pytest.approx(expected, rel=1e-6)
    few = rng.normal(size=(3, 5))  # fewer rows than features
    root = sqrtm(np.cov(rows.T) @ np.cov(few.T)).real
    expected = np.square(rows.mean(0) - few.mean(0)).sum() + np.trace(np.cov(rows.T) + np.cov(few.T) - 2 * root)
    assert frechet_distance(rows, few) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(DataError, match='1 and 400 rows'):
        frechet_distance(rows[:1], rows)


@pytest.mark.parametrize('rows', [7, 1000])  # of distances at once
def test_precision_and_recall(monkeypatch, rows):
    monkeypatch.setattr('perception.plugins.gan.metrics.ROWS', rows)
    rng = np.random.default_rng(0)
    real = rng.normal(size=(50, 3))
    made = 1.5 * rng.normal(size=(40, 3)) + 0.5
    across = np.linalg.norm(made[:, None] - real, axis=2)
    near = [np.sort(np.linalg.norm(part[:, None] - part, axis=2), 1)[:, 3] for part in (real, made)]
    assert precision_recall(real, made) == pytest.approx((
        (across <= near[0]).any(1).mean(), (across <= near[1][:, None]).any(0).mean()))
    assert precision_recall(real, real) == (1, 1)
    assert precision_recall(real, real + 100) == (0, 0)
    assert precision_recall(real, np.repeat(real[:1], 10, 0) + 1e-6 * rng.normal(size=(10, 3)))[0] == 1
    for few in (real[:3], np.full((5, 3), np.nan)):
        with pytest.raises(DataError, match='more than k=3'):
            precision_recall(few, real)


class Darkness:
    """Tells dark images from light ones."""

    def __call__(self, images):
        return images.mean((1, 2, 3)) > 0


def test_the_metric_scores_images_and_consistency():
    torch.manual_seed(0)
    metric, pairs = ImageMetric(), ConsistencyMetric(reader=dict(type=Darkness))
    batch = [torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8) for _ in range(6)]
    for image in batch:
        for scores in (metric, pairs):
            scores.process(dict(inputs=dict(image=[image])), [dict(pred_image=image, teacher_image=255 - image)])
    found = metric.evaluate(6) | pairs.evaluate(6)
    assert found['rFID-20220818'] == pytest.approx(0, abs=1e-4) and found['rprecision'] == 1
    assert found['L1'] > 0.5 and 0 < found['PSNR'] < 20 and 0 < found['rsemantic'] < 1 and found['same_class'] == 0
    with pytest.raises(DataError, match='without teacher_image'):
        pairs.process(None, [dict(pred_image=batch[0])])
    assert torch.equal(RandomFeatures()(torch.ones(1, 3, 8, 8)), RandomFeatures()(torch.ones(1, 3, 8, 8)))
    with pytest.raises(DataError, match='without pred_image'):
        metric.process(dict(inputs=dict(image=batch[:1])), [{}])
    with pytest.raises(DataError, match='16 x 16 pixels beside made ones of 8 x 8'):
        metric.process(dict(inputs=dict(image=batch[:1])), [dict(pred_image=batch[0][:, :8, :8])])


def test_the_teacher_of_a_test_makes_its_images_itself(adversarial):
    model = adversarial().eval()
    samples = model(None, [ImageSample(metainfo=dict(source=i)) for i in (3, 4)], 'predict')
    one, two = ConsistencyMetric(), ConsistencyMetric(dict(type=FrozenTeacher, model=model.teacher, taps={}))
    one.process(None, [sample.to_dict() | dict(source=sample.source) for sample in samples])
    two.process(None, [dict(pred_image=sample.pred_image, source=sample.source) for sample in samples])
    assert one.evaluate(2) == two.evaluate(2)


def test_noise_of_each_image_where_it_is_asked_for():
    """By default equal in all images; else of the image's seed, whatever the batch, and of no number of its z."""
    samples = [ImageSample(metainfo=dict(source=seed)) for seed in (3, 4)]
    torch.manual_seed(0)
    net = generator(SLIM).eval()
    for name, weight in net.named_parameters():
        if name.endswith('noise.weight'):
            torch.nn.init.ones_(weight)
    own = generator(SLIM, draw_noise=True).eval()
    own.load_state_dict(net.state_dict())
    z = net.seeds_to_z([3, 4])
    fixed, drawn = ([sample.pred_image for sample in model(None, samples, 'predict')] for model in (net, own))
    assert torch.equal(to_bytes(net({'z': z})), torch.stack(fixed)) and torch.equal(net({'z': z}), own({'z': z}))
    assert not torch.equal(fixed[1], drawn[1])
    assert torch.equal(own(None, samples[1:], 'predict')[0].pred_image, drawn[1])
    numbers = torch.cat([part.flatten(1) for part in own.noise_of([3, 4])], 1)
    assert numbers.shape == (2, sum(side ** 2 for side in net.noise_sizes)) and abs(numbers.mean()) < .15
    assert not torch.isin(numbers, z).any() and not torch.equal(numbers[0], numbers[1])
    assert abs(numbers.std() - 1) < .1


def test_path_scores():
    torch.manual_seed(0)
    net, ways = generator(SLIM), []

    def distance(images, others):
        ways.append(float((images - others).abs().max()))
        return (images - others).square().mean((1, 2, 3))
    found = path_scores(net, distance, 5, 3)
    assert found['ppl_cagc'] < 1e-6 < found['ppl_w_end'] < 1e3 and len(ways) == 4
    for noise in (layer for name, layer in net.named_parameters() if name.endswith('noise.weight')):
        torch.nn.init.ones_(noise)
    noisy = path_scores(net, distance, 5, 3)  # published: noise is drawn for each image of a pair
    assert noisy['ppl_cagc'] > 1e-2 and noisy['ppl_w_end'] < 1e3
    assert path_scores(net, distance, 5, 3) == noisy and trimmed(np.array([-1e9, *[1.] * 200, 1e9])) == 1
    assert float(small(torch.eye(512)[None, None])[0, 0, 0, 0]) == 0.5


def test_path_lengths_stand_among_the_scores_of_a_test(root, whole, tmp_path):
    options = {key: value for key, value in OPTIONS.items() if key.startswith('model.student')}
    options |= {'test_dataloader.dataset.count': 8, 'more_metrics.ppl.count': 4, 'work_dir': str(tmp_path),
                'mini_data.count': 32}  # the data that are there, which other tests read too
    evaluate(root / 'configs/gan/stylegan2_digits.py', whole / 'model.pth', mini=True, metrics=['ppl'], options=options)
    log, scores = (next(tmp_path.rglob(f'*.{kind}')).read_text() for kind in ('log', 'json'))
    assert {'rFID-20220818', 'pseudo_ppl_cagc', 'pseudo_ppl_w_end'} <= set(json.loads(scores))
    assert 'pseudo_ppl_w_end: ' in log and 'simulated' not in log  # the digits are real


def test_inception_of_a_file(tmp_path):
    torch.manual_seed(0)
    with torch.device('meta'):
        net = Inception()
    assert count_parameters(net) == 21_785_568
    weights = {name: torch.rand(value.shape) / (value[0].numel() if value.ndim > 1 else 1)
               for name, value in net.state_dict().items() if not name.endswith('tracked')}
    save_atomic(weights | {'fc.bias': torch.zeros(1008)}, tmp_path / 'inception.pth')
    image = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    metric = ImageMetric(tmp_path / 'inception.pth')
    for part in (image, 255 - image):
        metric.process(dict(inputs=dict(image=[part])), [dict(pred_image=part)])
    assert metric.evaluate(2) == dict(FID=pytest.approx(0, abs=1e-4)) and metric.results == []
    save_atomic(weights | {'Conv2d_1a_3x3.conv.weight': torch.zeros(32, 3, 5, 5)}, tmp_path / 'wrong.pth')
    with pytest.raises(CheckpointError, match=r'wrong\.pth.*Conv2d_1a_3x3'):
        InceptionFeatures(tmp_path / 'wrong.pth')


def test_digits_are_read():
    pytest.importorskip('sklearn', reason='scikit-learn is not installed')
    labels, files = zip(*digits(40, 32))
    grey = np.stack([cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR) for file in files])
    images = torch.from_numpy(grey).permute(0, 3, 1, 2) / 127.5 - 1
    assert (DigitReader()(images) == torch.tensor(labels)).float().mean() > 0.95


# --- seeds ---
def test_seeds_and_walks(tmp_path):
    assert parse_seeds('3,5-7') == [3, 5, 6, 7]
    for text in ('a', '1-', '-3', '9-2', '0-9999999', '', '9-2,7', '1,2-,3'):  # none is left out without a word
        with pytest.raises(DataError, match='seeds'):
            parse_seeds(text)
    torch.manual_seed(0)
    predictor = SeedPredictor(generator(SLIM).eval(), dict(type=object), walk=2)
    names = [name for name, _ in predictor.sources('1,2')]
    assert names == [f'walk_{i:06d}' for i in range(4)]
    made = predictor.predict([source for _, source in predictor.sources('1,2')])
    assert torch.equal(made[0].pred_image, predictor(1).pred_image)
    assert not torch.equal(made[1].pred_image, made[0].pred_image)
    file = predictor.save('png', tmp_path, 'x', 1, made[0])
    assert file.is_file() and predictor.draw(1, made[0]).shape == (128, 128, 3)
    mean = SeedPredictor(predictor.model, dict(type=object), truncation=0.0)
    rows = SeedPredictor(predictor.model, dict(type=object), columns=2, walk=2)
    sources = dict(rows.sources('1-4'))
    assert sources['walk_000001'] == [(1, 3, 0.5), (2, 4, 0.5)] and len(sources) == 4
    assert rows(sources['walk_000000']).pred_image.shape == (3, 16, 32)
    with pytest.raises(DataError, match='3 seeds for a walk of 2'):
        list(rows.sources('1-3'))
    with pytest.raises(ConfigError, match='names no teacher'):
        SeedPredictor(predictor.model, dict(type=object), show_teacher=True)
    assert torch.equal(mean(1).pred_image, mean(2).pred_image)


def test_nets_side_by_side(adversarial, tmp_path):
    model = adversarial()
    save_atomic(adversarial(start='fresh').student.state_dict(), tmp_path / 'fresh/model.pth')
    predictor = SeedPredictor(model.student.eval(), dict(type=object), columns=3, show_teacher=True, teacher=dict(
        type=FrozenTeacher, model=model.teacher, taps={}), beside=str(tmp_path / 'fresh/model.pth'))
    (name, source), = predictor.sources('4-6')
    sample = predictor(source)
    assert list(sample.rows) == ['teacher', 'fresh', 'made'] and name == 'seed_000004'
    expected = model.eval()(None, [ImageSample(metainfo=dict(source=5))], 'predict')[0]
    assert torch.equal(sample.rows['teacher'][1], expected.teacher_image)
    assert torch.equal(sample.rows['made'][1], expected.pred_image)
    assert predictor.draw(source, sample).shape[0] >= 3 * 128
    pair = dict.fromkeys(('real', 'made'), sample.rows['made'][:1])  # as many letters, the wider one fits too
    assert draw_grid(pair).shape[1] - 128 >= 8 + max(map(text_width, pair))
    shutil.copytree(tmp_path / 'fresh', tmp_path / 'b/fresh')  # neither is drawn in the place of the other
    again = SeedPredictor(model.student, dict(type=object), beside=[str(tmp_path / 'fresh/model.pth'),
                                                                    str(tmp_path / 'b/fresh/model.pth')])
    assert list(again.nets) == ['fresh', 'b/fresh', 'made']
    with pytest.raises(CheckpointError, match='absent.pth'):
        SeedPredictor(model.student, dict(type=object), beside=[str(tmp_path / 'absent.pth')])


def test_several_processes_wrap_the_model_as_the_config_says(adversarial, monkeypatch):
    class Wrapper(SimpleNamespace):
        """In place of StepDistributed, which asks for processes."""

    model = adversarial()
    runner = SimpleNamespace(distributed=True, cfg=Config(dict(sync_bn='torch')))
    found = Runner.wrap_model(runner, dict(type=Wrapper, broadcast_buffers=False), model)
    assert isinstance(found, Wrapper) and found.module is model and found.broadcast_buffers is False
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr('perception.apis.runner.get_device', lambda: 'cpu')
    monkeypatch.setenv('LOCAL_RANK', '1')
    found = Runner.wrap_model(runner, dict(type=Wrapper), torch.nn.Sequential(torch.nn.BatchNorm1d(4)))
    assert found.device_ids == [1] and type(found.module[0]) is torch.nn.SyncBatchNorm


def test_a_student_is_compared_with_its_teacher(adversarial):
    samples = adversarial().eval()(None, [ImageSample(metainfo=dict(source=3))], 'predict')
    assert samples[0].pred_image.shape == samples[0].teacher_image.shape == (3, 16, 16)
