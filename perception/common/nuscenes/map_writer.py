"""Maps of toy streets in the official layout: the map expansion's JSON and the mask of the drivable area.

What the layers of a street are made from:

| layer | from |
|---|---|
| drivable_area | one record a street: carriageway with its cross streets, islands as holes; parking strips |
| road_segment | carriageway between junctions; junctions; cross streets |
| lane | lanes between junctions |
| ped_crossing, stop_line | zebras and stop lines as they are painted |
| walkway | sidewalks with the kerbs and paved places that adjoin them |
| carpark_area | parking strips |
| road_divider, lane_divider | painted lines between lanes of opposite and of equal direction |
"""
from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from perception.common.nuscenes.writer import token_of
from perception.common.scene.islands import island_places
from perception.common.scene.street import CROSS_HALF, END, FAR, JUNCTION, Block, Street

POLYGON_LAYERS = ('drivable_area', 'road_segment', 'road_block', 'lane', 'ped_crossing', 'walkway', 'stop_line',
                  'carpark_area', 'lane_connector')
LINE_LAYERS = ('road_divider', 'lane_divider', 'traffic_light')
MASKS = {'singapore-onenorth': '53992ee3023e5494b90c316c183be829',      # names of the files in nuScenes
         'singapore-hollandvillage': '37819e65e09e5547b8a3ceaefba56bb2',
         'singapore-queenstown': '93406b464a165eaba6d9de76ca09f5da',
         'boston-seaport': '36092f0b03a857c6a3403e25b4b7aab3'}
STEP = 2.0           # metres along the street between nodes
ZEBRA = JUNCTION + 2, 1.4                 # metres from a junction to the middle of a zebra; half of its width
STOP = JUNCTION + 4.2, JUNCTION + 4.6     # metres from a junction to both edges of a stop line


def mask_file(location: str) -> str:
    """File of a location's mask, relative to the data root."""
    return f'maps/{MASKS[location]}.png'


class MapWriter:
    """The map of a location, street by street.

    Args:
        location: a key of `MASKS`.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        names = ('polygon', 'line', 'node', *POLYGON_LAYERS, *LINE_LAYERS)
        self.layers: dict[str, list[dict]] = {name: [] for name in names}
        self.edge = np.zeros(2)
        self._outlines: list[list[np.ndarray]] = []      # of drivable areas: exterior and holes

    def add_street(self, street: Street, to_map: np.ndarray, name: str, islands: bool = False) -> None:
        """Adds the layers of a street.

        Args:
            street: whose bends are so wide that cross streets do not meet on their inner side.
            to_map: 4x4 from its frame to the map's.
            name: of the street, for tokens.
            islands: whether `add_islands` put any there.
        """
        shape = _Shapes(street, to_map)
        ground = shape.rectangle(-END, street.length + END, -FAR, FAR)
        self.edge = np.maximum(self.edge, ground.max(0) + 20)
        area = token_of(self.location, name, 'drivable_area')
        parking = [shape.strip(block, side, strip.inner, strip.outer) for block in street.blocks
                   for side in (1, -1) if (strip := block.strip(side, 'parking'))]
        holes = [shape.rectangle(*island) for island in island_places(street)] if islands else []
        polygons = [self._polygon(name, shape.roadway(), holes), *(self._polygon(name, outline) for outline in parking)]
        self.layers['drivable_area'].append(dict(token=area, polygon_tokens=polygons))
        self._outlines += [[shape.roadway(), *holes], *([outline] for outline in parking)]
        segments = {}
        for block in street.blocks:
            segments[block.s0] = self._record('road_segment', name, shape.rectangle(
                block.s0, block.s1, -street.half, street.half), is_intersection=False, drivable_area_token=area)
            for lane in street.lanes:
                self._lane(name, shape, block, lane.d - lane.width / 2, lane.d + lane.width / 2, lane.direction)
        for junction in street.junctions:
            self._junction(name, shape, street, junction, area, segments)
        for outline in parking:
            self._record('carpark_area', name, outline, orientation=0.0, road_block_token='')
        for block in street.blocks:
            for side in (1, -1):
                for inner, outer in _walkways(block, side):
                    self._record('walkway', name, shape.strip(block, side, inner, outer))
        directions = {round(right.d + right.width / 2, 6): right.direction != left.direction
                      for right, left in zip(street.lanes[:-1], street.lanes[1:])}
        for line in street.boundaries:
            opposite = directions.get(round(float(line.offset[0, 1]), 6))
            if opposite is not None and line.paint_stop - line.paint_start > STEP:
                self._divider(name, shape.line(line.paint_start, line.paint_stop, float(line.offset[0, 1])), opposite,
                              f'{line.kind}_{line.colour}'.upper(), _segment_at(segments, line.s0))

    def _junction(self, name: str, shape: _Shapes, street: Street, s: float, area: str,
                  segments: dict[float, str]) -> None:
        half = street.half
        crossing_of = {}
        for outline in (shape.rectangle(s - JUNCTION, s + JUNCTION, -half, half),
                        shape.rectangle(s - CROSS_HALF, s + CROSS_HALF, half, FAR),
                        shape.rectangle(s - CROSS_HALF, s + CROSS_HALF, -FAR, -half)):
            self._record('road_segment', name, outline, is_intersection=True, drivable_area_token=area)
        for end in (1, -1):
            for side in (1, -1):
                edges = sorted((s + end * CROSS_HALF, s + end * (CROSS_HALF + 2.6)))
                self._record('walkway', name, shape.rectangle(*edges, *sorted((side * half, side * FAR))))
            middle, wide = s + end * ZEBRA[0], ZEBRA[1]
            bars = np.arange(-half + .5, half - .4, .95)
            crossing_of[end] = self._record(
                'ped_crossing', name, shape.rectangle(middle - wide, middle + wide, bars[0] - .25, bars[-1] + .25),
                road_segment_token=_segment_at(segments, middle))
            for lane in street.lanes:
                if lane.direction == -end:
                    edges = sorted((s + end * STOP[0], s + end * STOP[1]))
                    self._record('stop_line', name, shape.rectangle(*edges, lane.d - lane.width / 2 + .1,
                                                                    lane.d + lane.width / 2 - .1),
                                 stop_line_type='PED_CROSSING', ped_crossing_tokens=[crossing_of[end]],
                                 traffic_light_tokens=[], road_block_token='')

    def save(self, root: Path) -> None:
        """Writes the JSON and the mask below a data root."""
        folder = root / 'maps' / 'expansion'
        folder.mkdir(parents=True, exist_ok=True)
        edge = np.ceil(self.edge)
        found = dict(version='1.3', **self.layers, arcline_path_3={}, connectivity={}, canvas_edge=edge.tolist())
        (folder / f'{self.location}.json').write_text(json.dumps(found) + '\n')
        mask = np.zeros(np.rint(edge[::-1] * 10).astype(int), np.uint8)      # a pixel is 0.1 m, as the kit wants it
        for outlines in self._outlines:
            pixels = [np.rint(np.stack([o[:, 0] * 10, len(mask) - o[:, 1] * 10], -1)).astype(np.int32)
                      for o in outlines]
            cv2.fillPoly(mask, pixels[:1], 255)
            cv2.fillPoly(mask, pixels[1:], 0)
        (root / mask_file(self.location)).write_bytes(cv2.imencode('.png', mask)[1].tobytes())

    def _token(self, *names: str) -> str:
        return token_of(self.location, *names, sum(map(len, self.layers.values())))

    def _nodes(self, name: str, points: np.ndarray) -> list[str]:
        tokens = []
        for x, y in points.tolist():
            tokens.append(self._token(name, 'node'))
            self.layers['node'].append(dict(token=tokens[-1], x=x, y=y))
        return tokens

    def _polygon(self, name: str, outline: np.ndarray, holes: list[np.ndarray] | None = None) -> str:
        token = self._token(name, 'polygon')
        self.layers['polygon'].append(dict(
            token=token, exterior_node_tokens=self._nodes(name, outline),
            holes=[dict(node_tokens=self._nodes(name, hole)) for hole in holes or ()]))
        return token

    def _line(self, name: str, points: np.ndarray) -> str:
        token = self._token(name, 'line')
        self.layers['line'].append(dict(token=token, node_tokens=self._nodes(name, points)))
        return token

    def _record(self, layer: str, name: str, outline: np.ndarray, **more: object) -> str:
        token = self._token(name, layer)
        self.layers[layer].append(dict(token=token, polygon_token=self._polygon(name, outline), **more))
        return token

    def _divider(self, name: str, points: np.ndarray, opposite: bool, kind: str, segment: str) -> None:
        layer = 'road_divider' if opposite else 'lane_divider'
        line = self._line(name, points)
        nodes = self.layers['line'][-1]['node_tokens']
        more = dict(road_segment_token=segment) if opposite else dict(
            lane_divider_segments=[dict(node_token=token, segment_type=kind) for token in nodes])
        self.layers[layer].append(dict(token=self._token(name, layer), line_token=line, **more))

    def _lane(self, name: str, shape: _Shapes, block: Block, right: float, left: float, direction: int) -> None:
        ends = [self._line(name, shape.street_points(np.full(2, s), np.array([right, left])))
                for s in (block.s0, block.s1)[::direction]]
        sides = {side: [dict(node_token=token, segment_type='NIL') for token in self._nodes(
            name, shape.line(block.s0, block.s1, d)[::direction])]
            for side, d in zip(('left', 'right'), (left, right)[::direction])}
        self._record('lane', name, shape.rectangle(block.s0, block.s1, right, left), lane_type='CAR',
                     from_edge_line_token=ends[0], to_edge_line_token=ends[1],
                     left_lane_divider_segments=sides['left'], right_lane_divider_segments=sides['right'])


class _Shapes:
    """Outlines (P, 2) in the map of what lies at places (s, d) of a street."""

    def __init__(self, street: Street, to_map: np.ndarray) -> None:
        self.street, self.to_map = street, to_map

    def street_points(self, s: np.ndarray, d: np.ndarray) -> np.ndarray:
        """Points (P, 2) at s (P,), d (P,)."""
        return self.street.at(s, d)[:, :2] @ self.to_map[:2, :2].T + self.to_map[:2, 3]

    def line(self, s0: float, s1: float, d: float) -> np.ndarray:
        """Along the street."""
        s = np.linspace(s0, s1, max(2, round(abs(s1 - s0) / STEP) + 1))
        return self.street_points(s, np.full(len(s), d))

    def rectangle(self, s0: float, s1: float, right: float, left: float) -> np.ndarray:
        """Counter-clockwise, from s0 to s1 along the right edge."""
        return np.concatenate([self.line(s0, s1, right), self.line(s1, s0, left)])

    def strip(self, block: Block, side: int, inner: float, outer: float) -> np.ndarray:
        """A strip of a block's side."""
        return self.rectangle(block.s0, block.s1, *sorted((side * inner, side * outer)))

    def roadway(self) -> np.ndarray:
        """The carriageway with its cross streets, in one outline."""
        street, half, parts = self.street, self.street.half, []
        for side, turns in ((-1, street.junctions), (1, street.junctions[::-1])):
            at = -END if side < 0 else street.length + END
            for junction in turns:
                near, far = junction + side * CROSS_HALF, junction - side * CROSS_HALF
                parts += [self.line(at, near, side * half),
                          self.street_points(np.array([near, far]), np.full(2, side * FAR))]
                at = far
            parts.append(self.line(at, street.length + END if side < 0 else -END, side * half))
        return np.concatenate(parts)


def _segment_at(segments: dict[float, str], s: float) -> str:
    """Token of the road segment, by their beginnings in order, that holds s."""
    return next(token for s0, token in reversed(segments.items()) if s0 <= s)


def _walkways(block: Block, side: int) -> list[tuple[float, float]]:
    """From where to where beside the carriageway people walk: runs of strips of that part with a sidewalk in them."""
    runs: list[list] = []
    for strip in block.sides[side]:
        if strip.part == 'sidewalk':
            if not runs or runs[-1][-1].outer != strip.inner:
                runs.append([])
            runs[-1].append(strip)
    return [(run[0].inner, run[-1].outer) for run in runs if any(strip.name == 'sidewalk' for strip in run)]
