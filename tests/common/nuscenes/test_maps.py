"""Maps: what the writer makes of streets, what the kit makes of it, and masks like the kit's, to the pixel."""
import json
import time

import cv2
import numpy as np
import pytest

from perception.common.nuscenes.map_writer import MapWriter, mask_file
from perception.common.nuscenes.maps import LINES, POLYGONS, map_mask, rasterise, read_map
from perception.common.scene.caster import Caster
from perception.common.scene.islands import island_mesh
from perception.common.scene.labels import PART
from perception.common.scene.mesh import merge
from perception.common.scene.street import draw_street
from perception.utils.errors import ConfigError, DataError

KIT = pytest.importorskip('nuscenes.map_expansion.map_api', reason='nuscenes-devkit is not installed')
LAYERS = (*POLYGONS, *LINES)
PLACE = 'boston-seaport'
STYLES = ('residential', 'urban', 'boulevard')


def street_of(number):
    """A flat street and the 4x4 from it to the map: three of them side by side, turned."""
    street = draw_street(np.random.default_rng([number, 3]), STYLES[number], 240.0, 1 / 120)
    street.flatten()
    to_map, angle = np.eye(4), .7 + number
    to_map[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    ends = street.at(np.array([-60, 300.0]), np.zeros(2))[:, :2] @ to_map[:2, :2].T
    to_map[:2, 3] = np.array([260 + 480 * number, 270]) - ends.mean(0)
    return street, to_map


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root, writer = tmp_path_factory.mktemp('maps'), MapWriter(PLACE)
    for number in range(len(STYLES)):
        writer.add_street(*street_of(number), f'street {number}', islands=True)
    writer.save(root)
    return root


@pytest.fixture(scope='module')
def kit(root):
    return KIT.NuScenesMap(str(root), PLACE)


@pytest.fixture
def whole_lines(monkeypatch):
    """The kit stops at a line that a patch cuts in pieces; then it draws each."""
    def draw(lines, mask):
        for line in getattr(lines, 'geoms', [lines]):
            cv2.polylines(mask, [np.asarray(list(line.coords), np.int32).reshape(-1, 2)], False, 1, 2)
        return mask
    monkeypatch.setattr(KIT.NuScenesMapExplorer, 'mask_for_lines', staticmethod(draw))


def patches(edge, count):
    """Boxes, angles and canvases: those of nets, small ones, long ones; upright ones and turned ones."""
    rng = np.random.default_rng(5)
    for index in range(count):
        place = rng.uniform([140, 200], np.array(edge) - [140, 200])
        size = (100.0, 100.0) if index % 2 else rng.uniform(15, 130, 2)
        angle = rng.uniform(-360, 360) if index % 5 else float(rng.choice([-90, 0, 90, 180]))
        yield (*place, *size), angle, (200, 200) if index % 2 else tuple(rng.integers(40, 300, 2).tolist())


# --- what is written -------------------------------------------------------------------------------------------------
def test_the_kit_loads_all_layers_and_every_shape_is_valid(kit):
    assert {name for name in (*LAYERS, 'traffic_light', 'lane_connector') if not getattr(kit, name)} == \
        {'road_block', 'traffic_light', 'lane_connector'}      # a street has none of these
    for layer in POLYGONS:
        for record in getattr(kit, layer):
            tokens = record['polygon_tokens'] if layer == 'drivable_area' else [record['polygon_token']]
            shapes = [kit.extract_polygon(token) for token in tokens]
            assert all(shape.is_valid and shape.area > .5 for shape in shapes)
    areas = [[kit.extract_polygon(token) for token in record['polygon_tokens']] for record in kit.drivable_area]
    assert len(areas) == 3
    assert max(map(len, areas)) > 1      # parking strips
    assert sum(len(shape.interiors) for shapes in areas for shape in shapes) >= 6      # islands
    assert all(cue['polygon_token'] for record in kit.stop_line for cue in record['cue'])
    places = np.array([(node['x'], node['y']) for node in kit.node])
    assert (places > 0).all()
    assert (places < kit.canvas_edge).all()


def test_the_kit_renders_it(kit, monkeypatch):
    import matplotlib.pyplot as plt
    patch = pytest.importorskip('descartes.patch')
    monkeypatch.setattr(patch, 'asarray', lambda ring: np.asarray(getattr(ring, 'coords', ring)))   # of shapely 1
    figure, _ = kit.render_map_patch((200, 200, 320, 340), list(LAYERS), figsize=(3, 3), render_egoposes_range=False)
    figure.canvas.draw()
    picture = np.asarray(figure.canvas.buffer_rgba())[..., :3].reshape(-1, 3)
    plt.close(figure)
    assert len(np.unique(picture, axis=0)) > 20


def test_the_mask_is_that_of_the_drivable_area(root, kit):
    mask = cv2.imread(str(root / mask_file(PLACE)), cv2.IMREAD_GRAYSCALE)
    assert mask.shape == tuple(round(10 * metres) for metres in kit.canvas_edge[::-1])
    fine = rasterise(read_map(root, PLACE), ['drivable_area'], (300, 270, 0), (200, 200), (2000, 2000))[0]
    part = mask[::-1][1700:3700, 2000:4000] > 0
    assert (part & (fine > 0)).sum() / (part | (fine > 0)).sum() > .97


@pytest.mark.parametrize('number', range(3))
def test_what_is_road_for_the_ray_caster_is_road_in_the_map(root, number):
    street, to_map = street_of(number)
    caster = Caster(merge([street.mesh(np.random.default_rng(0)), island_mesh(street)]), 1)
    pose = street.pose(110.0, -2.0)
    grid = np.stack([*np.meshgrid(*[np.arange(-50, 50, .5) + .25] * 2), np.full((200, 200), 20.0)], -1).reshape(-1, 3)
    down = np.broadcast_to(np.float32([0, 0, -1]), grid.shape)
    hits = caster.cast((grid @ pose[:3, :3].T + pose[:3, 3]).astype(np.float32), down)
    here = to_map @ pose
    masks = rasterise(read_map(root, PLACE), ['drivable_area', 'walkway'], (*here[:2, 3], np.arctan2(
        here[1, 0], here[0, 0])), (100, 100), (200, 200), fine=8) > 0
    for mask, parts, least in ((masks[0], ('road', 'marking', 'parking'), .98), (masks[1], ('sidewalk',), .88)):
        real = np.isin(hits.part, [PART[name] for name in parts]).reshape(200, 200)
        assert (mask & real).sum() / (mask | real).sum() > least      # walkways leave kerbs beside grass out


# --- masks -----------------------------------------------------------------------------------------------------------
def test_masks_are_the_kit_s_to_the_pixel(root, kit, whole_lines):
    data, seen = read_map(root, PLACE), np.zeros(len(LAYERS), int)
    for box, angle, canvas in patches(kit.canvas_edge, 20):
        want = kit.get_map_mask(box, angle, list(LAYERS), canvas)
        np.testing.assert_array_equal(map_mask(data, box, angle, LAYERS, canvas), want)
        yaw = np.deg2rad(angle)
        np.testing.assert_array_equal(rasterise(data, LAYERS, (*box[:2], yaw), box[2:], canvas), want)
        seen += want.any((1, 2))
    assert (seen[[name != 'road_block' for name in LAYERS]] > 1).all()


def test_masks_take_no_more_time_than_the_kit_s(root, kit, whole_lines):
    data, times = read_map(root, PLACE), {'kit': [], 'own': []}
    for _ in range(3):
        for name, draw in (('kit', lambda *a: kit.get_map_mask(a[0], a[1], list(LAYERS), a[2])),
                           ('own', lambda *a: map_mask(data, a[0], a[1], LAYERS, a[2]))):
            start = time.process_time()
            for some in patches(kit.canvas_edge, 4):
                draw(*some)
            times[name].append(time.process_time() - start)
    assert min(times['own']) < min(times['kit'])


def hand_made(folder, **layers):
    """A map of a square 10 to 30 m with a hole 16 to 24 m, a bow tie, lines; and more."""
    nodes = {'a': (10, 10), 'b': (30, 10), 'c': (30, 30), 'd': (10, 30), 'e': (16, 16), 'f': (24, 16), 'g': (24, 24),
             'h': (16, 24), 'i': (0, 20), 'j': (40, 20), 'k': (40, 22), 'l': (0, 22)}
    found = dict(
        version='1.3', canvas_edge=[50, 50], arcline_path_3={}, connectivity={},
        node=[dict(token=token, x=x, y=y) for token, (x, y) in nodes.items()],
        polygon=[dict(token='square', exterior_node_tokens=[*'abcd'], holes=[dict(node_tokens=[*'efgh']),
                                                                             dict(node_tokens=[])]),
                 dict(token='tie', exterior_node_tokens=[*'acbd'], holes=[])],
        line=[dict(token='there and back', node_tokens=[*'ijkl']), dict(token='none', node_tokens=[])],
        **{name: [] for name in (*LAYERS, 'lane_connector', 'traffic_light')})
    found['drivable_area'] = [dict(token='1', polygon_tokens=['square'])]
    found['walkway'] = [dict(token='2', polygon_token='square'), dict(token='3', polygon_token='tie')]
    found['road_divider'] = [dict(token='4', line_token='there and back'), dict(token='5', line_token='none')]
    found.update(layers)
    path = folder / 'maps/expansion/singapore-onenorth.json'
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(found))
    return folder


def test_holes_crossed_outlines_and_cut_lines_by_hand(tmp_path):
    data = read_map(hand_made(tmp_path), 'singapore-onenorth')
    masks = rasterise(data, ['drivable_area', 'walkway', 'road_divider', 'lane'], (20, 20, 0), (40, 40), (40, 40))
    assert masks.shape == (4, 40, 40)
    assert masks.dtype == np.uint8
    square = np.zeros((40, 40), np.uint8)
    square[10:31, 10:31] = 1
    square[16:25, 16:25] = 0
    np.testing.assert_array_equal(masks[0], square)
    np.testing.assert_array_equal(masks[1], square)      # the kit leaves out what is not valid
    assert masks[2][20, 5] == masks[2][22, 5] == 1
    assert not masks[3].any()
    narrow = rasterise(data, ['road_divider'], (15, 21, 0), (10, 20), (40, 80), thickness=1)[0]
    assert np.flatnonzero(narrow[:, 40]).tolist() == [16, 24]      # cut in two pieces
    turned = rasterise(data, ['drivable_area'], (20, 20, np.pi / 2), (40, 40), (40, 40), fine=4)[0]
    assert turned[10:30, 10:30].sum() == 400 - 64


@pytest.mark.parametrize(('change', 'problem'), [
    (dict(version='1.2'), 'version 1.2'), (dict(version='1.10'), None), (dict(node=7), 'in node'),
    (dict(node=[dict(token='a', x='far', y=2)]), 'numbers x and y'), (dict(canvas_edge=[5]), 'canvas_edge'),
    (dict(lane=[dict(token='x', polygon_token='lost')]), 'lost'), (dict(lane=[dict(token='x')]), 'polygon_token'),
    (dict(node=[dict(token='a', x=float('nan'), y=2)]), 'not finite'), (dict(walkway=None), 'in walkway'),
    (dict(polygon=[dict(token='square', exterior_node_tokens=['a'], holes=[])]), '1 nodes')])
def test_damaged_maps_get_one_sentence(tmp_path, change, problem):
    root = hand_made(tmp_path, **change)
    if problem is None:
        assert read_map(root, 'singapore-onenorth').size == (50, 50)
    else:
        with pytest.raises(DataError, match=problem):
            read_map(root, 'singapore-onenorth')


def test_missing_maps_and_wrong_names(tmp_path):
    with pytest.raises(DataError, match='boston-seaport.json: no such file'):
        read_map(tmp_path, 'boston-seaport')
    with pytest.raises(ConfigError, match='paris'):
        read_map(tmp_path, 'paris')
    path = hand_made(tmp_path) / 'maps/expansion/singapore-onenorth.json'
    with pytest.raises(ConfigError, match='walkways'):
        rasterise(read_map(tmp_path, 'singapore-onenorth'), ['walkways'], (0, 0, 0), (9, 9), (9, 9))
    for text in ('{"version": "1.3"', '[]', 'null'):
        path.write_text(text)
        with pytest.raises(DataError, match='singapore-onenorth.json'):
            read_map(tmp_path, 'singapore-onenorth')
