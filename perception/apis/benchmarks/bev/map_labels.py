"""Masks of nuScenes' maps on random patches: pixel for pixel those of the development kit, and milliseconds beside it.

Patches are 100 m x 100 m of 200 x 200 cells, as nets are trained on, anywhere in the map and turned at random, with
seven layers. Both are timed in turns, in CPU seconds. Patches that the kit cannot draw (a line that it cuts in pieces
stops it) are left out of both and counted.
"""
import argparse
import time

import numpy as np
from mmengine.logging import print_log

from perception.common.measure import interleave, machine
from perception.common.nuscenes.maps import map_mask, read_map
from perception.common.nuscenes.reader import INSTALL_KIT
from perception.utils.checks import check_positive
from perception.utils.optional import import_optional
from perception.utils.paths import data_path

LAYERS = ('drivable_area', 'ped_crossing', 'walkway', 'stop_line', 'carpark_area', 'road_divider', 'lane_divider')
EXTENT, CELLS = 100.0, (200, 200)  # m
OPTIONS = {
    '--data-root': {'default': 'data/mini/nuscenes_rig', 'metavar': 'DIR',
                    'help': 'holds maps/expansion (default: %(default)s, of tools/make_mini.py)'},
    '--location': {'default': 'singapore-onenorth',
                   'choices': ['singapore-onenorth', 'singapore-hollandvillage', 'singapore-queenstown',
                               'boston-seaport'],
                   'help': '(default: %(default)s)'},
    '--patches': {'type': 'int', 'default': 20, 'metavar': 'N', 'help': 'drawn at random (default: %(default)s)'},
    '--rounds': {'type': 'int', 'default': 3, 'help': 'measured rounds (default: %(default)s)'}}


def run(args: argparse.Namespace) -> dict[str, float]:
    """Compare and time the masks, and log a line.

    Returns:
        `patches` that were compared, `differing` pixels, `own` and `kit`, milliseconds a patch.

    Raises:
        ConfigError: a number below 1, or an unknown location.
        DataError: no map.
        MissingDependency: nuscenes-devkit or shapely is not installed.
    """
    check_positive('map_labels', patches=args.patches, rounds=args.rounds)
    api = import_optional('nuscenes.map_expansion.map_api', 'the masks of the development kit',
                          INSTALL_KIT)
    root = data_path(args.data_root)
    data = read_map(root, args.location)
    kit = api.NuScenesMap(str(root), args.location)
    drawn, differing = [], 0
    for box, angle in patches(data.size, args.patches):
        try:
            wanted = kit.get_map_mask(box, angle, list(LAYERS), CELLS)
        except (AttributeError, NotImplementedError, TypeError):  # of several shapes where it expects one
            continue
        drawn.append((box, angle))
        differing += int((map_mask(data, box, angle, LAYERS, CELLS) != wanted).sum())
    runs = dict(own=lambda: [map_mask(data, *patch, LAYERS, CELLS) for patch in drawn],
                kit=lambda: [kit.get_map_mask(*patch, list(LAYERS), CELLS) for patch in drawn])
    seconds = interleave(runs, args.rounds, time.process_time)
    found = {name: 1e3 * min(times) / max(len(drawn), 1) for name, times in seconds.items()}
    print_log(f'{args.location}: {len(drawn)} of {args.patches} patches, {len(LAYERS)} layers, {differing} pixels '
              f'differ; {found["own"]:.1f} ms a patch, the kit {found["kit"]:.1f} ms, ours takes '
              f'{found["own"] / found["kit"]:.2f}x; {machine()}', 'current')
    return dict(patches=len(drawn), differing=differing, **found)


def patches(size: tuple[float, float], count: int) -> list[tuple[tuple[float, float, float, float], float]]:
    """Boxes x, y of the middle, height, width [m], and angles [degrees], inside of a map of a width and height."""
    rng = np.random.default_rng(0)
    places = rng.uniform(EXTENT / 2, np.maximum(np.array(size) - EXTENT / 2, EXTENT / 2 + 1), (count, 2))
    return [((*place, EXTENT, EXTENT), angle) for place, angle in zip(places.tolist(), rng.uniform(-180, 180, count))]
