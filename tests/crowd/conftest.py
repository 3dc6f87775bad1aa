"""A handful of frames as STCrowd's archives hold them, written here."""
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from perception.crowd.datasets.stcrowd.reader import CAMERA

PROJECTION = np.array(CAMERA['p']) @ np.array(CAMERA['r']) @ np.array(CAMERA['t'])


def person(number: int | str, place: tuple[float, float, float], height: float = 1.7, **changes) -> dict:
    """An item of the LiDAR's list, with the fields that nobody documents."""
    item = {'id': f'p{number}', 'number': number, 'category': 'person', 'position': dict(zip('xyz', place)),
            'boundingbox': dict(x=.7, y=.6, z=height), 'rotation': 1.57, 'occlusion': 0, 'pointCount': 40,
            'group': 3, 'isValid': True, 'size category': 'adult'}
    return dict(item, **changes)


def image_person(item: dict, by_centre: bool = True) -> dict:
    """The item of the image's list of somebody in front of the camera, whose ids are of the other type."""
    centre, size = (np.array([item[key][axis] for axis in 'xyz']) for key in ('position', 'boundingbox'))
    corners = centre + (np.indices((2, 2, 2)).reshape(3, 8).T - .5) * size
    uvw = PROJECTION @ np.c_[corners, np.ones(8)].T
    uv = (uvw[:2] / uvw[2]).T
    low, high = uv.min(axis=0), uv.max(axis=0)
    place = (low + high) / 2 if by_centre else low
    return dict(id=item['id'], number=str(item['number']), occlusion=item['occlusion'],
                points=[dict(x=u, y=v) for u, v in uv.tolist()], boundingbox=dict(zip('xy', place.tolist())),
                dimension=dict(zip('xy', (high - low).tolist())))


def frame_of(sequence: int | str, number: int, people: list, in_image: list, stamp: float | None = None) -> dict:
    """A frame of an annotation file, whose image has another stamp than its scan."""
    stamp = 1617249430.4 + number * .4 if stamp is None else stamp
    name = stamp if isinstance(stamp, int) else f'{stamp:.9f}'
    return dict(frameId=number, frame_name=f'pcd/{sequence}/{name}.bin', items=people, images=[
        {'image_name': f'left/{sequence}/{number}_{stamp + .58:.5f}.jpg', 'class': 'left', 'items': in_image},
        {'image_name': f'right/{sequence}/{number}_{stamp + .58:.5f}.jpg', 'class': 'left'}])


def write_sequence(root: Path, sequence: int | str, frames: list[dict], **changes) -> None:
    """The annotations of a sequence and a scan of each frame: the ground, and points on the people."""
    (root / 'anno').mkdir(parents=True, exist_ok=True)
    record = dict(group_id=str(sequence), total_number=len(frames), scene_class=1, frames=frames)
    (root / f'anno/{sequence}.json').write_text(json.dumps(dict(record, **changes)))
    for number, frame in enumerate(frames):
        rng = np.random.default_rng([int(sequence), number])
        ground = rng.uniform((-20, -20, -1.65, 0), (34, 20, -1.6, 255), (400, 4))
        clouds = [np.array([*item['position'].values(), 90]) + rng.uniform(-.5, .5, (40, 4))
                  * (*item['boundingbox'].values(), 20) for item in frame['items']]
        path = root / frame['frame_name']
        path.parent.mkdir(parents=True, exist_ok=True)
        np.concatenate([ground, *clouds]).astype('<f4').tofile(path)


def write_stcrowd(root: Path, by_centre: bool = True) -> Path:
    """Sequences 1 (three frames) and 2 (one) to train, 33 to validate, 32 to test, which has no annotations.

    Frame 0 of sequence 1: two people 1 m apart, one who sits, one behind the camera's edge. Somebody is in the image
    alone. Frame 1: one of them has walked 0.2 m forward. Frame 2 is empty.
    """
    walker, other, sitting = person(7, (6.1, -1.2, -.8)), person(8, (6.1, -.2, -.8), occlusion=2), \
        person(9, (10., 2., -1.), 1.1)
    beside = person('12', (4., 9., -.8))
    hidden = image_person(person(44, (15., 1., -.8)), by_centre)
    first = [image_person(item, by_centre) for item in (other, walker)]
    later = dict(walker, position=dict(x=6.3, y=-1.2, z=-.8))
    write_sequence(root, 1, [frame_of(1, 0, [walker, other, sitting, beside], [hidden, *first]),
                             frame_of(1, 1, [later, person(10, (20., 5., -.8))], [image_person(later, by_centre)]),
                             frame_of(1, 2, [], [])])
    write_sequence(root, 2, [frame_of(2, 0, [person(1, (8., -4., -.8))], [])])
    write_sequence(root, 33, [frame_of(33, k, [person(3, (8. + k, 3., -.8)), person(4, (12., -3., -.8))], [])
                              for k in range(2)])
    write_sequence(root, 32, [frame_of(32, k, [person(3, (9., 1., -.8))], []) for k in range(2)])
    (root / 'anno/32.json').unlink()
    (root / 'split.json').write_text(json.dumps(dict(train=[2, 1], val=['33'], test=[32])))
    (root / 'camera.json').write_text(json.dumps({key: np.array(value).tolist() for key, value in CAMERA.items()}))
    return root


@pytest.fixture
def folder(tmp_path) -> Path:
    """What `write_stcrowd` writes."""
    return write_stcrowd(tmp_path / 'stcrowd')


@pytest.fixture
def change(folder) -> Callable[[str, Callable[[dict], object]], None]:
    """Changes a JSON file of `folder` in place."""
    def change(name: str, edit: Callable[[dict], object]) -> None:
        record = json.loads((folder / name).read_text())
        edit(record)
        (folder / name).write_text(json.dumps(record))
    return change


@pytest.fixture(scope='session')
def make() -> SimpleNamespace:
    """The functions above, by name."""
    return SimpleNamespace(person=person, image_person=image_person, frame_of=frame_of, write_sequence=write_sequence,
                           write_stcrowd=write_stcrowd)
