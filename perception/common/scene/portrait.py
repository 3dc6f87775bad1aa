"""Single things of the toy world in the middle of small pictures, each seen from a random side."""
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from perception.common.scene.camera import CameraSpec, Frame, render
from perception.common.scene.caster import Caster
from perception.common.scene.labels import PART
from perception.common.scene.mesh import Mesh
from perception.common.scene.shading import draw_look

GAP = 0.5  # metres between pieces of one thing at most
SIDES = 8  # that a thing is tried to be seen from


def portrait(caster: Caster, box: np.ndarray, size: int, look: str, rng: np.random.Generator) -> Frame | None:
    """A thing from a random side from which it is seen, (size, size) pixels; None where there is none.

    Args:
        caster: the world.
        box: (7,) of the thing in it.
        size: rows and columns.
        look: kind of the light.
        rng: source of the view.
    """
    extent = 0.5 * float(np.hypot(max(box[3], box[5]), box[4]))
    distance, centre = 3.2 * extent + 1, box[:3] + [0, 0, box[5] / 2]
    headings = box[6] + rng.uniform(0, 2 * np.pi) + np.arange(SIDES) * 2.4  # turns that come near each other late
    ways = np.stack([np.cos(headings), np.sin(headings), rng.uniform(.08, .35, SIDES)], 1)
    eyes, lengths = centre + distance * ways, distance * np.linalg.norm(ways, axis=1)
    free = caster.cast(eyes.astype(np.float32), -ways / np.linalg.norm(ways, axis=1, keepdims=True)).distance
    seen = np.flatnonzero(free > lengths - extent)
    if not len(seen):
        return None
    eye, heading = eyes[seen[0]], headings[seen[0]]
    forward = (centre - eye) / np.linalg.norm(centre - eye)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = np.stack([right, np.cross(forward, right), forward], 1), eye
    spec = CameraSpec(size, size, 1.25 * size, 1.5, 0, scale=1.0, smooth=size > 64)
    return render(caster, pose, spec, draw_look(look, float(np.degrees(heading + np.pi)), rng), rng)


def standing(mesh: Mesh, part: str) -> np.ndarray:
    """(K, 7) boxes, along the axes, of what has no identity, such as signs: triangles of a part that hang together.

    Args:
        mesh: of a world.
        part: name in `PARTS`.
    """
    faces = mesh.faces[mesh.part == PART[part]]
    if not len(faces):
        return np.zeros((0, 7))
    used, faces = np.unique(faces, return_inverse=True)
    points, faces = mesh.vertices[used].astype(float), faces.reshape(-1, 3)
    near = cKDTree(points).query_pairs(GAP, output_type='ndarray')
    edges = np.concatenate([faces[:, :2], faces[:, 1:], near])
    count, label = connected_components(coo_matrix((np.ones(len(edges), np.int8), edges.T), (len(points),) * 2), False)
    low, high = np.full((count, 3), np.inf), np.full((count, 3), -np.inf)
    np.minimum.at(low, label, points)
    np.maximum.at(high, label, points)
    middle = (low + high) / 2
    return np.concatenate([middle[:, :2], low[:, 2:], high - low, np.zeros((count, 1))], 1)
