"""Augmentation for a discriminator: what each change does to pixels and colours, derivatives, the steps of p."""
import math

import pytest
import torch
import torch.nn.functional as F

from perception.plugins.gan import augment
from perception.plugins.gan.augment import SYM6, AdaptiveAugment, moved
from perception.plugins.gan.models.adversarial import LazyAdam
from perception.plugins.gan.models.layers import gaussian
from perception.utils.errors import ConfigError


def smooth(height=48, width=48, batch=2):
    """Pictures without the finest detail, of which mirrored filters make something else."""
    noise = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        noise = F.avg_pool2d(noise, 9, 1, 4)
    return noise / noise.std()


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def test_up_and_down_again_changes_nothing():
    taps = torch.tensor(SYM6, dtype=torch.float64)
    products = [float((taps[:12 - 2 * lag] * taps[2 * lag:]).sum()) for lag in range(6)]
    assert products == pytest.approx([1, 0, 0, 0, 0, 0], abs=1e-11)
    image, place = torch.randn(2, 3, 9, 12), augment._shifted(torch.full((2, 2), 1e-9))
    torch.testing.assert_close(moved(image, place), image, atol=1e-4, rtol=0)


def test_pixels_come_from_where_a_change_says():
    image = torch.randn(2, 3, 12, 16)
    right_and_up = moved(image, augment._shifted(torch.tensor([[3., -2]] * 2)))
    torch.testing.assert_close(right_and_up[..., :-2, 3:], image[..., 2:, :-3], atol=1e-4, rtol=0)
    picture, inner = smooth(), (..., slice(8, -8), slice(8, -8))
    for place, expected in (
            (augment._scaled(torch.tensor([[-1., 1]] * 2)), picture.flip(3)),
            (augment._turned(torch.full((2, 1), -math.pi / 2)), torch.rot90(picture, 1, (2, 3))),
            (augment._turned(torch.full((2, 1), math.pi)), picture.flip(2, 3))):
        torch.testing.assert_close(moved(picture, place), expected, atol=0.1, rtol=0)
    ramp = ((torch.arange(48.) - 23.5) / 24).expand(1, 1, 48, 48)
    larger = moved(ramp, augment._scaled(torch.full((1, 2), 1.25)))
    torch.testing.assert_close(larger[inner], ramp[inner] / 1.25, atol=1e-3, rtol=0)
    later = moved(ramp, augment._shifted(torch.tensor([[2.5, 0]])))
    torch.testing.assert_close(later[inner], ramp[inner] - 2.5 / 24, atol=1e-4, rtol=0)
    reflected = moved(ramp.abs(), augment._shifted(torch.tensor([[6., 0]])))
    assert reflected[0, 0, 24, :6].mean() > 0.7  # not grey
    far = moved(picture, augment._shifted(torch.tensor([[300., 0]] * 2)))
    assert far.abs().max() < 1e-4 and far.shape == picture.shape


def test_derivatives_of_any_order():
    images = torch.randn(2, 1, 5, 6, dtype=torch.float64, requires_grad=True)
    places = torch.stack([augment._turned(torch.tensor([[.3]]))[0], augment._shifted(torch.tensor([[.7, -.2]]))[0]])
    assert torch.autograd.gradcheck(lambda x: moved(x, places), (images,))
    assert torch.autograd.gradgradcheck(lambda x: moved(x, places), (images,))


def test_nothing_happens_with_no_probability_and_as_much_is_drawn():
    images, states = torch.randn(3, 3, 16, 16), []
    for p in (0.0, 1.0):
        draw = draws()
        changed = AdaptiveAugment(p=p)(images, draw)
        states.append(draw.get_state())
        assert torch.equal(changed, images) == (p == 0) and changed.shape == images.shape
    assert torch.equal(*states)
    again = AdaptiveAugment(p=1.0)(images, draws())
    assert torch.equal(again, changed) and not torch.equal(again, AdaptiveAugment(p=1.0)(images, draws(1)))


def test_blits_alone_are_mirrors_turns_and_shifts():
    pictures = smooth(32, 32, 40)
    changed = AdaptiveAugment(p=1.0, geometry=False, colour=False)(pictures, draws())
    middle = (..., slice(8, -8), slice(8, -8))
    kinds = set()
    for before, after in zip(pictures, changed):
        turned = {(mirror, turn): torch.rot90(before.flip(2) if mirror else before, turn, (1, 2))
                  for mirror in (False, True) for turn in range(4)}
        like = {(kind, y, x): float((picture.roll((y, x), (1, 2))[middle] - after[middle]).abs().mean())
                for kind, picture in turned.items() for y in range(-4, 5) for x in range(-4, 5)}
        best = min(like, key=like.get)
        assert like[best] < 0.05
        kinds.add(best[0])
    assert len(kinds) == 8


def test_colours():
    grey = torch.linspace(-1, 1, 16).view(1, 1, 4, 4).expand(64, 3, 4, 4)
    changed = AdaptiveAugment(p=1.0, blit=False, geometry=False)(grey, draws())
    torch.testing.assert_close(changed[:, 0], changed[:, 1], atol=1e-5, rtol=1e-5)  # hue and saturation leave grey grey
    slopes = (changed[:, 0, 3, 3] - changed[:, 0, 0, 0]) / 2
    assert {bool(s > 0) for s in slopes} == {True, False} and 0.3 < slopes.abs().log2().std() < 0.7
    red = torch.zeros(64, 3, 1, 1)
    red[:, 0] = 1
    hues = AdaptiveAugment(p=1.0, blit=False, geometry=False)(red, draws()).flatten(1).argmax(1)
    assert set(hues.tolist()) == {0, 1, 2}


def test_p_follows_how_sure_the_discriminator_is():
    one = AdaptiveAugment(kimg=0.1, every=2)
    for iteration, score in enumerate((1, 1, 1, -1, -1, -1, -1, -1)):
        one.see(torch.full((5, 1), float(score)))
        said = one.follow(iteration)
        assert bool(said) == (iteration % 2 == 1)
        if iteration == 1:
            assert float(said['augment_p']) == pytest.approx(0.1) and float(said['real_sign']) == 1
    assert float(one.p) == 0  # 0.1, then 0 three times, not below
    still = AdaptiveAugment(target=None, p=0.3, every=1)
    still.see(torch.ones(5, 1))
    still.follow(0)
    assert float(still.p) == pytest.approx(0.3)
    for wrong in (dict(p=2), dict(target=1.0), dict(kimg=0), dict(blit=False, geometry=False, colour=False)):
        with pytest.raises(ConfigError, match='AdaptiveAugment'):
            AdaptiveAugment(**wrong)


def test_a_discriminator_sees_changed_images_alone(adversarial):
    model = adversarial(taught=False, augment=dict(type=AdaptiveAugment, p=0.7, every=1))
    seen = []
    model.discriminator.register_forward_hook(lambda net, inputs, output: seen.append(inputs[0].detach()))
    made = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    logs = model.train_step(dict(inputs=dict(image=list(made)), data_samples=None), LazyAdam(dict(lr=0.01))(model))
    assert all(torch.isfinite(value) for value in logs.values()) and {'augment_p', 'real_sign', 'loss_r1'} <= set(logs)
    assert len(seen) == 3 and seen[0].unique().numel() > 1  # of black images
    assert 'augment.p' in model.state_dict() and not hasattr(model.student, 'augment')


def test_a_discriminator_begins_with_a_blur(adversarial):
    spot = torch.zeros(1, 3, 41, 41)
    spot[..., 20, 20] = 1
    seen = gaussian(spot, 4.0)
    assert float(seen[0, 0].sum()) == pytest.approx(1) and float(seen[0, 0, 20, 24] / seen[0, 0, 20, 20]) == (
        pytest.approx(0.5))
    assert float(seen[0, 0, 20, 33]) == 0 < float(seen[0, 0, 20, 32]) and torch.equal(gaussian(spot, 0.3), spot)
    model, widths = adversarial(taught=False, blur=2.0, blur_kimg=0.016), []
    model.discriminator.register_forward_pre_hook(lambda net, inputs: widths.append(inputs[0].detach()))
    image = torch.zeros(4, 3, 16, 16)
    image[..., 8, 8] = 1
    for now in (0, 2, 4, 9):
        model._scores(image, now, draws())
    peaks = [float(one[0, 0, 8, 8]) for one in widths]
    assert peaks == pytest.approx([float(gaussian(image, width)[0, 0, 8, 8]) for width in (2, 1, 0, 0)])
    assert peaks[0] < peaks[1] < peaks[2] == 1
    with pytest.raises(ConfigError, match='blur=-1'):
        adversarial(taught=False, blur=-1)
