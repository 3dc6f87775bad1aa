"""Surfaces of the toy world as a laser sees them."""
from typing import NamedTuple

import numpy as np


class Material(NamedTuple):
    """Reflectance at 905 nm, range roughness in metres, whether the colour counts and whether it shines."""
    reflectance: float
    roughness: float
    coloured: bool = False
    glossy: bool = False


MATERIALS = dict(
    asphalt=Material(.22, .006), white_paint=Material(.75, .004, glossy=True),
    yellow_paint=Material(.60, .004, glossy=True), kerb=Material(.30, .007), pavers=Material(.30, .007),
    parking_stone=Material(.26, .008), gravel=Material(.38, .025), grass=Material(.42, .035), soil=Material(.30, .02),
    concrete=Material(.35, .006), brick=Material(.35, .006), plaster=Material(.45, .004),
    glass=Material(.08, .003, glossy=True), roof=Material(.25, .01), leaf=Material(.45, .03),
    bark=Material(.30, .012), metal=Material(.35, .004, glossy=True),
    car_paint=Material(.45, .004, coloured=True, glossy=True), car_glass=Material(.08, .003, glossy=True),
    rubber=Material(.06, .006), cloth=Material(.35, .008), skin=Material(.40, .006), plastic=Material(.12, .005),
    lamp=Material(.75, .004, glossy=True), retro=Material(3.0, .004), wood=Material(.35, .008))
MATERIAL = {name: index for index, name in enumerate(MATERIALS)}
REFLECTANCE = np.array([m.reflectance for m in MATERIALS.values()], np.float32)
ROUGHNESS = np.array([m.roughness for m in MATERIALS.values()], np.float32)
COLOURED = np.array([m.coloured for m in MATERIALS.values()])
GLOSSY = np.array([m.glossy for m in MATERIALS.values()])
