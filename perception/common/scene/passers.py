"""People of a crowd as meshes: they walk, stand, bend or sit, with luggage, umbrellas and prams."""
from __future__ import annotations

import numpy as np

from perception.common.scene.mesh import Mesh, MeshBuilder
from perception.common.scene.people import PHASES, figure, leg

ACTS = ('walking', 'standing', 'bending', 'sitting')
HAIR = ((.02, .017, .015), (.05, .035, .02), (.12, .07, .03), (.35, .33, .30))
BRIGHT = ((.30, .03, .03), (.03, .06, .22), (.02, .02, .025), (.25, .20, .04), (.05, .18, .09), (.30, .30, .32))
PRAM = .78            # metres from who pushes a pram to its middle


def passer_by(rng: np.random.Generator, act: str, child: bool = False, carries: frozenset[str] = frozenset()
              ) -> dict[str, list[Mesh]]:
    """Somebody of a crowd, and what goes along without being part of the person.

    Args:
        rng: draws size, clothes and stance.
        act: one of `ACTS`; who bends or sits is below 1.2 m.
        child: 1.05 to 1.45 m tall when upright; adults are 1.5 to 1.95 m.
        carries: any of `'rucksack'`, `'bag'`, `'umbrella'`, `'pram'`; the last two for who stands or walks.

    Returns:
        Meshes by their part: `'person'` or `'child'` with luggage (`PHASES` of them for who walks), `'stroller'` for a
        pram and `'other_object'` for an umbrella or a seat.
    """
    part = 'child' if child else 'person'
    height = rng.uniform(1.05, 1.45) if child else float(np.clip(rng.normal(1.70, .085), 1.5, 1.95))
    looks = dict(colours=_clothes(rng), hair=HAIR[rng.choice(4, p=[.45, .3, .1, .15])],
                 bag=BRIGHT[rng.integers(len(BRIGHT))], stance=rng.uniform(0, 1, 3))
    if act == 'sitting':
        return _sitting(part, height, looks, carries)
    phases = 2 * np.pi * (np.arange(PHASES) + rng.integers(PHASES)) / PHASES if act == 'walking' else [None]
    result = {part: [_upright(part, height, looks, carries, phase) if act != 'bending' else
                     _bending(part, height, looks, carries) for phase in phases]}
    if 'umbrella' in carries:
        result['other_object'] = [_umbrella(height, BRIGHT[rng.integers(len(BRIGHT))])]
    if 'pram' in carries:
        result['stroller'] = [pram(BRIGHT[rng.integers(len(BRIGHT))])]
    return result


def _clothes(rng: np.random.Generator) -> np.ndarray:
    """(2, 3) colours of the upper half, of any hue, and of the lower half, dark or blue."""
    value, grey = rng.uniform(.03, .45), rng.uniform(0, 1)
    hue = (1 + np.cos(2 * np.pi * (rng.random() + np.arange(3) / 3))) / 2
    legs = (.03, .07)[rng.integers(2)] * np.array([[1, 1, 1.05], [.5, .8, 2.2], [1.5, 1.3, 1.0]][rng.integers(3)])
    return np.stack([value * (grey + (1 - grey) * hue), legs])


def _body(part: str, height: float, looks: dict, hip: np.ndarray, lean: float, legs: list, hands: list,
          carries: frozenset[str]) -> Mesh:
    """A figure with its hair and luggage; its lowest point is on the ground."""
    builder = MeshBuilder()
    neck = figure(builder, height, hip, lean, legs, hands, looks['colours'], part, helmet=False)
    up = np.array([np.sin(lean), 0, np.cos(lean)])
    back = np.array([-up[2], 0, up[0]])
    builder.balls(neck + .098 * height * up + .012 * height * back, np.array([.066, .058, .067]) * height, 'cloth',
                  looks['hair'], part)
    if 'rucksack' in carries:
        middle = neck - .15 * height * up + .11 * height * back
        builder.balls(middle, np.array([.075, .095, .15]) * height if lean < .8 else
                      np.array([.15, .095, .075]) * height, 'cloth', looks['bag'], part, nu=8, nv=6)
    if 'bag' in carries:
        bottom = max(hands[1][2] - .36, .02)
        builder.boxes([*hands[1][:2], bottom], [.30, .11, .26], 'cloth', looks['bag'], part, taper=.92)
        builder.tubes([*hands[1][:2], bottom + .25], hands[1], .012, 'cloth', looks['bag'], part, sides=4)
    mesh, pose = builder.build(), np.eye(4)
    pose[2, 3] = -mesh.bounds()[0][2]
    return mesh.moved(pose)


def _upright(part: str, height: float, looks: dict, carries: frozenset[str], phase: float | None) -> Mesh:
    """Somebody at a phase of the walking cycle, or who stands (None)."""
    hip, stance = np.array([0, 0, .53 * height]), looks['stance']
    legs, hands = [], []
    for side, shift in ((1, 0), (-1, np.pi)):
        foot = hip + np.array([0, side * .05 * height, 0])
        if phase is None:
            legs.append(leg(foot, .12 * (stance[0] - .5) * side, .04, .245 * height))
            low, high = [.02, .145, .46], [.16, .06, .66]          # an arm hangs down, or the hand is at the chest
            raised = stance[1] < .35 or (stance[1] < .55 and side > 0)
            hands.append(np.array(high if raised else low) * [1, side, 1] * height)
        else:
            swing = np.sin(phase + shift)
            legs.append(leg(foot, .45 * swing, .7 * max(0.0, -np.sin(phase + shift - .6)), .245 * height))
            hands.append(np.array([-.17 * swing, side * .14, .47 + .03 * abs(swing)]) * height)
    if 'pram' in carries:
        hands = [np.array([.26, side * .11, .57]) * height for side in (1, -1)]
    if 'umbrella' in carries:
        hands[0] = np.array([.14, .07, .64]) * height
    return _body(part, height, looks, hip, .04, legs, hands, carries)


def _bending(part: str, height: float, looks: dict, carries: frozenset[str]) -> Mesh:
    """Somebody who ties a shoe or picks something up."""
    lean = 1.5 + .2 * looks['stance'][0]
    hip = np.array([-.17, 0, .43]) * height
    legs = [leg(hip + np.array([0, side * .055 * height, 0]), .70, 1.2, .245 * height) for side in (1, -1)]
    neck = hip + .30 * height * np.array([np.sin(lean), 0, np.cos(lean)])
    hands = [np.array([neck[0] + .02 * height, side * .08 * height, .16 * height]) for side in (1, -1)]
    return _body(part, height, looks, hip, lean, legs, hands, carries - {'bag'})


def _sitting(part: str, height: float, looks: dict, carries: frozenset[str]) -> dict[str, list[Mesh]]:
    """Somebody who sits on the ground or on a low step."""
    step, length = .24 * looks['stance'][0], .245 * height
    hip = np.array([-.16 * height, 0, step + .085 * height])
    legs = []
    for side in (1, -1):
        start, thigh = hip + np.array([0, side * .07 * height, 0]), 1.95 - step
        knee = start + length * np.array([np.sin(thigh), 0, -np.cos(thigh)])
        shank = np.arccos(np.clip((knee[2] - .05 * height) / length, -1, 1))
        legs.append(leg(start, thigh, thigh - shank, length))
    hands = [leg[0] + np.array([-.02, 0, .04]) * height for leg in legs]
    result = {part: [_body(part, height, looks, hip, .12 + .25 * looks['stance'][1], legs, hands, carries - {'bag'})]}
    if step > .05:
        builder = MeshBuilder()
        builder.boxes([hip[0], 0, 0], [.4, .5, step], 'concrete', (.33, .32, .30), 'other_object')
        result['other_object'] = [builder.build()]
    return result


def _umbrella(height: float, colour: tuple[float, float, float]) -> Mesh:
    """An open umbrella held over the head of somebody of that height."""
    builder = MeshBuilder()
    hand = np.array([.14, .07, .64]) * height
    top = np.array([.05, .04, 1.17]) * [height, height, height]
    builder.tubes(hand, top, .011, 'metal', (.2, .2, .2), 'other_object', sides=5)
    for low, high, wide, narrow in ((.0, .10, .50, .36), (.10, .17, .36, .02)):
        builder.tubes(top + [0, 0, low - .18], top + [0, 0, high - .18], wide, 'cloth', colour, 'other_object', narrow,
                      sides=10, caps=False)
    return builder.build()


def pram(colour: tuple[float, float, float]) -> Mesh:
    """A pram ahead of who pushes it, `PRAM` metres from the origin."""
    builder = MeshBuilder()
    dark = (.03, .03, .035)
    builder.boxes([PRAM, 0, .42], [.72, .40, .26], 'cloth', colour, 'stroller', taper=1.08)
    builder.balls([PRAM + .20, 0, .70], [.22, .21, .26], 'cloth', colour, 'stroller')
    wheels = np.array([[PRAM + x, y, .14] for x in (-.30, .30) for y in (-.24, .24)])
    builder.tubes(wheels - [0, .02, 0], wheels + [0, .02, 0], .14, 'rubber', dark, 'stroller', sides=12)
    ends = np.array([[PRAM + x, y, .44] for x in (.22, -.22) for y in (-.2, .2)])
    builder.tubes(wheels, ends, .014, 'metal', dark, 'stroller', sides=5)
    bars = np.array([[PRAM - .34, y, .50] for y in (-.19, .19)])
    ends = np.array([[.42, y, .97] for y in (-.19, .19)])
    builder.tubes(bars, ends, .014, 'metal', dark, 'stroller', sides=5)
    builder.tubes(ends[:1], ends[1:], .016, 'rubber', dark, 'stroller', sides=5)
    return builder.build()
