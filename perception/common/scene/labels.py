"""What a triangle of the toy world is part of, and how each data set calls it."""
import numpy as np

from perception.common.formats.kitti import join_labels

PARTS = ('void', 'road', 'marking', 'parking', 'sidewalk', 'other_ground', 'terrain', 'building', 'fence',
         'other_structure', 'vegetation', 'trunk', 'pole', 'sign', 'car', 'truck', 'bus', 'bendy_bus', 'trailer',
         'construction', 'train', 'ambulance', 'police_car', 'bicycle', 'motorcycle', 'person', 'child', 'worker',
         'police_officer', 'bicyclist', 'motorcyclist', 'personal_mobility', 'stroller', 'wheelchair', 'animal',
         'cone', 'barrier', 'debris', 'pushable', 'rack', 'other_object', 'ego', 'outlier')
PART = {name: index for index, name in enumerate(PARTS)}

# raw SemanticKITTI ids, semantic-kitti.yaml `labels`: (at rest, moving)
_SEMANTICKITTI = dict(
    void=(0, 0), road=(40, 40), marking=(60, 60), parking=(44, 44), sidewalk=(48, 48), other_ground=(49, 49),
    terrain=(72, 72), building=(50, 50), fence=(51, 51), other_structure=(52, 52), vegetation=(70, 70),
    trunk=(71, 71), pole=(80, 80), sign=(81, 81), car=(10, 252), truck=(18, 258), bus=(13, 257), bendy_bus=(13, 257),
    trailer=(20, 259), construction=(20, 259), train=(16, 256), ambulance=(10, 252), police_car=(10, 252),
    bicycle=(11, 11), motorcycle=(15, 15), person=(30, 254), child=(30, 254), worker=(30, 254),
    police_officer=(30, 254), bicyclist=(31, 253), motorcyclist=(32, 255), personal_mobility=(30, 254),
    stroller=(99, 99), wheelchair=(30, 254), animal=(99, 99), cone=(99, 99), barrier=(99, 99), debris=(99, 99),
    pushable=(99, 99), rack=(99, 99), other_object=(99, 99), ego=(0, 0), outlier=(1, 1))
SEMANTICKITTI_RAW = np.array([_SEMANTICKITTI[name] for name in PARTS], np.uint32)


def semantickitti_labels(part: np.ndarray, instance: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Entries of a `.label` file: raw id in the lower 16 bits, instance id in the upper ones.

    Args:
        part: (N,) part ids.
        instance: (N,) instance ids, 0 for what is no single thing.
        moving: (I,) whether the instance with this id moves.

    Returns:
        (N,) uint32.
    """
    return join_labels(SEMANTICKITTI_RAW[part, moving[instance].astype(np.int64)], instance)

# What a triangle of part `marking` is painted as, with ApolloScape's label id of it: dashes count as guiding, solid
# lines as dividing. Lamps of vehicles are here too, to tell front from rear.
_MARKS = dict(
    none=0, white_solid=200, yellow_solid=204, white_double=213, yellow_double=209, white_dashed=201, yellow_dashed=203,
    stop_line=217, zebra=214, chevron=218, parking_bay=210, arrow_straight=220, arrow_straight_left=221,
    arrow_straight_right=222, arrow_left=224, arrow_right=225, arrow_left_right=226, slow_down=205, no_parking=227,
    diamond=212, symbol=250, head_lamp=0, tail_lamp=0)
MARKS = tuple(_MARKS)
MARK = {name: index for index, name in enumerate(MARKS)}
APOLLOSCAPE_IDS = np.array(list(_MARKS.values()), np.uint8)

# names in nuScenes' category.json; a ridden cycle counts with its rider
NUSCENES = dict(
    void='noise', road='flat.driveable_surface', marking='flat.driveable_surface', parking='flat.driveable_surface',
    sidewalk='flat.sidewalk', other_ground='flat.other', terrain='flat.terrain', building='static.manmade',
    fence='static.manmade', other_structure='static.manmade', vegetation='static.vegetation', trunk='static.vegetation',
    pole='static.manmade', sign='static.manmade', car='vehicle.car', truck='vehicle.truck', bus='vehicle.bus.rigid',
    bendy_bus='vehicle.bus.bendy', trailer='vehicle.trailer', construction='vehicle.construction', train='static.other',
    ambulance='vehicle.emergency.ambulance', police_car='vehicle.emergency.police', bicycle='vehicle.bicycle',
    motorcycle='vehicle.motorcycle', person='human.pedestrian.adult', child='human.pedestrian.child',
    worker='human.pedestrian.construction_worker', police_officer='human.pedestrian.police_officer',
    bicyclist='vehicle.bicycle', motorcyclist='vehicle.motorcycle',
    personal_mobility='human.pedestrian.personal_mobility', stroller='human.pedestrian.stroller',
    wheelchair='human.pedestrian.wheelchair', animal='animal', cone='movable_object.trafficcone',
    barrier='movable_object.barrier', debris='movable_object.debris', pushable='movable_object.pushable_pullable',
    rack='static_object.bicycle_rack', other_object='static.other', ego='vehicle.ego', outlier='noise')
