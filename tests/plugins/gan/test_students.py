"""What students keep of their teachers, directions of latents, and losses against the published code's numbers."""
import numpy as np
import pytest
import torch

from perception.plugins.gan.convert import rosinality
from perception.plugins.gan.losses import ImageL1Loss, Perceptual, RelationLoss, build_trunk, cosines, relation
from perception.plugins.gan.models.stylegan2 import StyleGAN2
from perception.plugins.gan.students import (
    begin,
    channel_scores,
    content_scores,
    latent_directions,
    sliced,
    slimmed,
)
from perception.utils.checkpoint import load_weights, save_atomic
from perception.utils.errors import CheckpointError, ConfigError
from tests.plugins.gan.conftest import SLIM, WIDE, generator


@pytest.fixture(scope='module')
def golden(shared):
    found = {}
    for name in ('stylegan2_A', 'stylekd_losses_A'):
        with np.load(shared / f'goldens/{name}.npz') as file:
            found[name] = {key: torch.from_numpy(file[key]) for key in file.files}
    return found


@pytest.fixture(scope='module')
def pair(golden):
    nets = []
    for file, start in (('stylegan2_A', 'g/'), ('stylekd_losses_A', 'student/')):
        weights = {k.removeprefix(start): v.float() for k, v in golden[file].items() if k.startswith(start)}
        net = StyleGAN2(**rosinality.shape_of(weights))
        load_weights(net, rosinality.without_kernels(weights))
        nets.append(net)
    return nets


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * max(float(expected.abs().max()), 1e-3))


def test_directions(pair, golden):
    golden = golden['stylekd_losses_A']
    found = latent_directions(pair[0], 3)
    for i in range(3):
        expected = golden[f'directions_split_sorted_eigh_{i}'].float()
        overlap = (found[5 * i:5 * i + 5] @ expected.T).abs()
        torch.testing.assert_close(overlap, torch.eye(5), rtol=0, atol=1e-3)
    overlap = (latent_directions(pair[0], 3, together=True) @ golden['directions_global_reference'].T).abs()
    assert (overlap.diagonal() > 0.99).sum() >= 3  # those published are not sorted
    assert torch.equal(latent_directions(pair[0], (2, 0)), torch.cat([found[10:], found[:5]]))
    assert (found.gather(1, found.abs().argmax(1, keepdim=True)) > 0).all()
    with pytest.raises(ConfigError, match=r'blocks=\[0, 1, 2, 3\].*some of 0..2'):
        latent_directions(pair[0], 4)


def test_losses_and_gradients_of_the_published_code(pair, golden):
    golden, student = golden['stylekd_losses_A'], pair[1]
    noise = [[golden[f'noise_{who}_{i}'] for i in range(7)] for who in ('teacher', 'student')]
    made = []
    for net, own in zip(pair, noise):
        latents = net.mix(net.mapping(golden['z']))
        made.append(net.synthesis(torch.cat([latents, latents + golden['offsets']]), own))
    close(made[0].image[:5], golden['image_teacher'])
    close(made[1].image[:5], golden['image_student'])
    theirs, ours = (dict(features=part.features, rgbs=[rgb[:5] for rgb in part.rgbs]) for part in made)
    for i in range(3):
        close(cosines(ours['features'][i]), golden[f'cos_student_{i}'])
        close(cosines(theirs['features'][i]), golden[f'cos_teacher_{i}'])
    for kind in ('kl', 'mse'):
        for single in (0, 1):
            loss = RelationLoss('t', (0, 1, 2), kind, bool(single))(ours, theirs, {})
            torch.testing.assert_close(loss, golden[f'loss_relation_{kind}_single{single}'], rtol=1e-4, atol=1e-8)
    close(ImageL1Loss('t')(ours, theirs, {}), golden['loss_l1'])
    close(ImageL1Loss('t', all_sizes=True)(ours, theirs, {}), golden['loss_l1_intermediate'])
    RelationLoss('t', (0, 1, 2))(ours, theirs, {}).backward()
    own = dict(student.named_parameters())
    for name in ('convs.0.conv.weight', 'conv1.conv.modulation.weight', 'convs.5.noise.weight'):
        expected = golden[f'grad_relation/{name}']
        torch.testing.assert_close(own[name].grad, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize('kind', ['kl', 'mse'])
def test_relations_of_plain_features(golden, kind):
    golden = golden['stylekd_losses_A']
    ours, theirs = ([golden[f'fixed/{who}_feat_{i}'] for i in range(3)] for who in ('student', 'teacher'))
    ours = [part.clone().requires_grad_() for part in ours]
    for single in (0, 1):
        total = sum(relation(a, b, kind, bool(single)) for a, b in zip(ours, theirs))
        torch.testing.assert_close(total, golden[f'fixed/loss_{kind}_single{single}'], rtol=1e-4, atol=1e-8)
        if kind == 'kl' and not single:
            total.backward()
            for i, part in enumerate(ours):
                expected = golden[f'fixed/grad_student_feat_{i}']
                torch.testing.assert_close(part.grad, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_equal_features_lose_nothing_and_one_image_is_refused():
    features = [torch.randn(6, 4, 8, 8)]
    assert float(RelationLoss('t', (0,))(dict(features=features), dict(features=features), {})) == pytest.approx(0,
                                                                                                             abs=1e-7)
    with pytest.raises(ConfigError, match=r'layers \(1,\) of 1'):
        RelationLoss('t', (1,))(dict(features=2 * features), dict(features=features), {})
    with pytest.raises(ConfigError, match='1 images'):
        RelationLoss('t', (0,))(dict(features=[features[0][:2]]), dict(features=[features[0][:2]]), {})


def test_a_teacher_with_images_at_other_sizes():
    sizes = [torch.zeros(2, 3, side, side) for side in (4, 8)]
    one = dict(rgbs=sizes[1:])  # a StyleGAN3 has one
    assert float(ImageL1Loss('t')(dict(rgbs=sizes), one, {})) == 0
    with pytest.raises(ConfigError, match='2 images of the student and 1'):
        ImageL1Loss('t', all_sizes=True)(dict(rgbs=sizes), one, {})


# --- channels ---
def test_slimmed_channels_are_the_published_ones():
    assert slimmed([512] * 10 + [256] * 2 + [128] * 2, 0.7) == [154] * 10 + [77] * 2 + [39] * 2
    with pytest.raises(ConfigError, match='ratio=nan'):
        slimmed([8], float('nan'))
    with pytest.raises(ConfigError, match='ratio=1'):
        slimmed([4], 1)


def test_a_student_of_all_channels_is_its_teacher():
    torch.manual_seed(0)
    teacher, student, z = generator(WIDE), generator(WIDE), torch.randn(2, 12)
    begin(student, teacher, 'slices')
    assert torch.equal(student({'z': z}), teacher({'z': z}))


def test_slices_follow_the_scores():
    torch.manual_seed(0)
    teacher, student = generator(WIDE), generator(SLIM)
    scores = [torch.arange(8.)] * 6
    begin(student, teacher, 'slices', scores)
    assert torch.equal(student.convs[1].conv.weight, teacher.convs[1].conv.weight[:, 4:, 4:])
    assert torch.equal(student.to_rgbs[1].conv.modulation.weight, teacher.to_rgbs[1].conv.modulation.weight[4:])
    assert torch.equal(student.input.input, teacher.input.input[:, 4:])
    assert [len(score) for score in channel_scores(teacher)] == WIDE
    with pytest.raises(ConfigError, match='none larger'):
        sliced(student, WIDE)


def test_starts():
    torch.manual_seed(0)
    teacher = generator(WIDE)
    for start, mapping, synthesis in (('fresh', False, False), ('mapping', True, False), ('slices_alone', False, True)):
        student = generator(SLIM)
        begin(student, teacher, start)
        assert torch.equal(student.style[1].weight, teacher.style[1].weight) == mapping
        same = torch.isin(student.convs[0].conv.weight, teacher.convs[0].conv.weight).all()
        assert bool(same) == synthesis
    with pytest.raises(ConfigError, match='do not fit'):
        begin(generator(SLIM, second_kernel=1), teacher, 'slices')
    begin(generator(SLIM, second_kernel=1), teacher, 'mapping')
    with pytest.raises(ConfigError, match=r'lr_mlp=0.1 of the student and 0.01 .*lr_mapping'):
        begin(generator(SLIM, lr_mlp=0.1), teacher, 'mapping')
    begin(generator(SLIM, lr_mlp=0.1), teacher, 'slices_alone')


def test_content_aware_scores():
    torch.manual_seed(0)
    teacher, z = generator(WIDE).requires_grad_(False), torch.randn(3, 12)  # as that of a FrozenTeacher
    everywhere = content_scores(teacher, z, batch=2, density=0.3)
    assert [len(score) for score in everywhere] == WIDE and all((score > 0).all() for score in everywhere)
    nowhere = content_scores(teacher, z, parser=lambda image: torch.zeros_like(image[:, :1]), density=0.3)
    assert all(float(score.sum()) == 0 for score in nowhere)


# --- perceptual distance ---
def test_the_random_distance_has_its_own_name():
    torch.manual_seed(0)
    distance, images = Perceptual(), torch.rand(2, 3, 16, 16) * 2 - 1
    assert distance.name == 'pseudo_lpips' and not distance.state_dict() and not list(distance.parameters())
    assert float(distance(images, images).abs().max()) == 0
    found = distance(images, images.flip(0))
    assert (found > 0).all() and torch.allclose(found, Perceptual()(images, images.flip(0)))


def test_given_weights_are_lpips(tmp_path):
    trunk = build_trunk((64, 128, 256, 512, 512)).state_dict()
    heads = {f'lin{i}.model.1.weight': torch.full((1, c, 1, 1), 2 / c) for i, c in enumerate((64, 128, 256, 512, 512))}
    save_atomic({f'features.{k}': v for k, v in trunk.items()} | heads, tmp_path / 'lpips.pth')
    distance = Perceptual(tmp_path / 'lpips.pth')
    assert distance.name == 'lpips' and float(distance(torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16))) > 0
    save_atomic({f'features.conv{k}': v for k, v in trunk.items()} | heads, tmp_path / 'named.pth')
    with pytest.raises(CheckpointError, match='conv0'):
        Perceptual(tmp_path / 'named.pth')
    save_atomic({f'features.{k}': v for k, v in trunk.items()}, tmp_path / 'vgg.pth')
    with pytest.raises(CheckpointError, match='lin0'):
        Perceptual(tmp_path / 'vgg.pth')
