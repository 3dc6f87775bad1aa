"""People of round limbs: walking, standing, and sitting on cycles."""
from __future__ import annotations

import numpy as np

from perception.common.scene.mesh import Mesh, MeshBuilder, merge
from perception.common.scene.vehicles import bicycle, motorcycle

PHASES = 8            # meshes of a walking person
STRIDE = 1.4          # metres walked per cycle of PHASES
SKIN, HAIR, BAG = (.45, .28, .20), (.05, .035, .02), (.06, .06, .10)


def clothes(rng: np.random.Generator) -> np.ndarray:
    """(2, 3) muted colours of the upper and the lower half."""
    value = rng.uniform(.03, .35, (2, 1))
    return value * (1 - rng.uniform(0, .5, (2, 1)) * rng.random((2, 3)))


def leg(hip: np.ndarray, thigh: float, bend: float, length: float) -> tuple[np.ndarray, np.ndarray]:
    """Knee and ankle for a thigh turned forward by `thigh` and a knee bent by `bend` radians."""
    knee = hip + length * np.array([np.sin(thigh), 0, -np.cos(thigh)])
    return knee, knee + length * np.array([np.sin(thigh - bend), 0, -np.cos(thigh - bend)])


def figure(builder: MeshBuilder, height: float, hip: np.ndarray, lean: float, legs: list, hands: list,
            colours: np.ndarray, part: str, helmet: bool) -> np.ndarray:
    """Adds torso, head, arms and legs of somebody; returns where the neck is.

    Args:
        builder: takes them.
        height: metres when upright.
        hip: (3,) metres.
        lean: of the torso, radians forward.
        legs: (knee, ankle) of the left and of the right leg, see `leg`.
        hands: (3,) of the left and of the right one.
        colours: (2, 3) of the upper and of the lower half.
        part: name in `PARTS`.
        helmet: whether there is one on the head.
    """
    up = np.array([np.sin(lean), 0, np.cos(lean)])
    neck, waist = hip + .30 * height * up, hip + .10 * height * up
    side = np.array([0, 1.0, 0])
    broad = .105 * height
    builder.tubes([hip - .02 * height * up, waist], [waist, neck], np.array([.085, .09]) * height, 'cloth', colours[0],
                  part, np.array([.09, .075]) * height, sides=8)
    shoulders = [neck - .03 * height * up + s * broad * side for s in (1, -1)]
    elbows = [(a + b) / 2 + np.array([-.03, 0, -.05]) * height for a, b in zip(shoulders, hands)]
    builder.tubes([*shoulders, *elbows], [*elbows, *hands], np.array([.033, .033, .027, .027]) * height, 'cloth',
                  colours[0], part, np.array([.027, .027, .02, .02]) * height)
    hips = [hip + s * .05 * height * side for s in (1, -1)]
    knees, ankles = [leg[0] for leg in legs], [leg[1] for leg in legs]
    builder.tubes([*hips, *knees], [*knees, *ankles], np.array([.055, .055, .038, .038]) * height, 'cloth', colours[1],
                  part, np.array([.04, .04, .026, .026]) * height)
    head = neck + .085 * height * up
    builder.balls(np.array([*shoulders, *hands]), np.array([.045, .045, .025, .025])[:, None] * height, 'cloth',
                  colours[0], part, nu=6, nv=5)
    builder.balls(head, np.array([.058, .05, .07]) * height, 'skin', SKIN, part)
    builder.balls(head + [-.01 * height, 0, .015 * height], np.array([.064, .057, .066]) * height,
                  'plastic' if helmet else 'cloth', HAIR, part)
    builder.boxes(np.array(ankles) + np.array([.03 * height, 0, -.045 * height]),
                  np.array([[.15, .055, .045]]) * height, 'plastic', HAIR, part)
    return neck


def person(rng: np.random.Generator, part: str = 'person', moving: bool = True) -> list[Mesh]:
    """Meshes of a person's walking cycle (`PHASES` of them), or the one mesh of somebody who stands.

    Args:
        rng: draws size, clothes and luggage; both kinds of people use the same draws.
        part: `'person'`, or `'child'` for a height of 1.05 to 1.45 m.
        moving: whether the person walks.
    """
    height = rng.uniform(1.05, 1.45) if part == 'child' else float(np.clip(rng.normal(1.72, .08), 1.5, 1.95))
    colours, rucksack, bag, stance = clothes(rng), rng.random() < .35, rng.random() < .2, rng.uniform(-.15, .25)
    meshes = []
    for phase in 2 * np.pi * np.arange(PHASES if moving else 1) / PHASES:
        builder = MeshBuilder()
        swing = .45 if moving else .08
        hip = np.array([0, 0, .53 * height])
        legs, hands = [], []
        for side, shift in ((1, 0), (-1, np.pi)):
            bend = .7 * max(0.0, -np.sin(phase + shift - .6)) if moving else .03
            foot = hip + np.array([0, side * .05 * height, 0])
            legs.append(leg(foot, swing * np.sin(phase + shift), bend, .245 * height))
            reach = -.38 * swing * np.sin(phase + shift) * height + (0 if moving else stance * .5)
            hands.append(np.array([reach, side * .15 * height, .47 * height]))
        neck = figure(builder, height, hip, .04, legs, hands, colours, part, helmet=False)
        if rucksack:
            builder.boxes(neck + [-.16, 0, -.45], [.2, .3, .42], 'cloth', BAG, part)
        if bag:
            builder.boxes(hands[1] + [0, 0, -.35], [.32, .12, .3], 'cloth', BAG, part)
        meshes.append(builder.build())
    return meshes


def rider(rng: np.random.Generator, part: str) -> list[Mesh]:
    """The one mesh of a bicyclist or motorcyclist on the cycle, cycle included.

    Args:
        rng: draws size and clothes.
        part: `'bicyclist'` or `'motorcyclist'`.
    """
    height = float(np.clip(rng.normal(1.74, .07), 1.55, 1.92))
    builder = MeshBuilder()
    on_bicycle = part == 'bicyclist'
    hip = np.array([-.20, 0, .99]) if on_bicycle else np.array([-.30, 0, .84])
    bar = np.array([.32, 0, 1.06]) if on_bicycle else np.array([.42, 0, 1.06])
    turn = rng.uniform(-.3, .3)
    legs = []
    for side in (1, -1):
        start = hip + np.array([0, side * (.05 if on_bicycle else .09) * height, 0])
        legs.append(leg(start, 1.0 + (side * turn if on_bicycle else .25), 1.1 + (side * turn if on_bicycle else .5),
                         .245 * height))
    hands = [bar + np.array([0, side * .27, 0]) for side in (1, -1)]
    lean = rng.uniform(.35, .6) if on_bicycle else rng.uniform(.2, .4)
    figure(builder, height, hip, lean, legs, hands, clothes(rng), part, helmet=True)
    cycle = bicycle(part) if on_bicycle else motorcycle(part, tuple(rng.uniform(.02, .4, 3)))
    return [merge([builder.build(), cycle])]
