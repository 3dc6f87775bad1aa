"""What a sample carries beside its input tensors.

Predictions are called `pred_...`. The meta information names what the room's Predictor takes, by a key that ends in
`_path`, or as `source` where it is no file.
"""
from mmengine.structures import BaseDataElement
from torch import Tensor

# fields of BoxSample that there is one of for each box of the truth
PER_BOX = ('boxes', 'labels', 'ignore', 'occlusion', 'track_ids', 'num_points', 'density', 'joint')


class Sample(BaseDataElement):
    """A sample that a data loader for a GPU can pin in the host's memory, from where copies wait for nothing."""

    def pin_memory(self) -> 'Sample':
        """The sample with its tensors in pinned memory."""
        pinned = self.new()
        pinned.set_data({name: value.pin_memory() for name, value in self.items() if isinstance(value, Tensor)})
        return pinned


class PointSegSample(Sample):
    """Labels and predictions of one point cloud.

    Data fields, all optional tensors with one row per point in file order:
        labels: (N,) int64 train ids 0..C-1, 255 = ignored.
        pred_labels: (N,) int64 train ids 0..C-1.
        logits: (N, C) float32 class scores, when asked for.

    Meta information: `sample_id` (unique, such as `'08_000700'`), `points_path`, `num_points`. Where points of other
    scans follow those of the scan itself also `origin_len`, how many are its own: `labels` and `pred_labels` are of
    these. Where second returns follow first ones also `first_len`, how many are first ones.
    """


class LaneSample(Sample):
    """Labels and predictions of one road image, H x W pixels at the network's input size, L lane slots, C classes.

    Data fields, all optional:
        labels: (H, W) int64, 0 = background, 1..L = slots from left to right (or other classes), 255 = ignored.
        exist: (L,) float32, 1 where the image has a lane in the slot.
        lanes: list of (P, 2) float64 arrays u, v in pixels of the original image, bottom to top, as the file has them.
        full_labels: (H0, W0) uint8 at the original size, where a metric needs them.
        lane_probs: (C, H, W) float32, softmax of the network.
        exist_probs: (L,) float32.
        pred_labels: (H, W) int64 classes.
        pred_lanes: list of (P, 2) float64 arrays as `lanes`.
        stored: True where predictions are those of a file, to be scored as they are.

    Meta information: `sample_id` (official relative path without extension), `image_path`, `original_shape` (H0, W0),
    `label_shape` (rows and columns that the files of the data set count in; another size where images were scaled),
    `crop_top` (rows cut off the original before resizing, 0 = none), `input_shape` (H, W), `category` (CULane test),
    `h_samples` (TuSimple, in pixels of the image), `own_classes` (True where predictions are of classes of the net, not
    of those that the data set names), `masks` (the sub-task whose classes `labels` are where `full_labels` are official
    masks of BDD100K).
    """


class BoxSample(Sample):
    """Boxes and predictions of one point cloud.

    A box is a row `x, y, z, l, w, h, yaw, vx, vy`: x, y, z its centre (not its bottom) in metres of the data set's
    LiDAR frame, z up; l along the heading, w across, h up [m]; yaw counter-clockwise about +z from the frame's +x
    [rad]; vx, vy in m/s of the same frame, NaN where unknown.

    Data fields, all optional tensors, K boxes of the truth and P predictions:
        boxes: (K, 9) float32.
        labels: (K,) int64 classes 0..C-1.
        ignore: (K,) bool, True where a box need not be found and is not wrong if it is.
        occlusion: (K,) int64 levels, the higher the more is hidden.
        track_ids: (K,) int64, the same for the same object of a sequence.
        num_points: (K,) int64 LiDAR points in the box.
        density: (K,) float32, how many other boxes stand within 2 m.
        image_boxes: (M, 4) float32 u1, v1, u2, v2 [pixel] of the objects that the image shows, and `joint` (K,) int64,
            which of them a box is, -1 where none; where the data set has them.
        pred_boxes: (P, 9) float32.
        pred_scores: (P,) float32.
        pred_labels: (P,) int64.
        pred_track_ids: (P,) int64, where predictions were followed: the same for the same object of a sequence, -1 for
            none.

    Meta information: `sample_id` (unique, such as `'33_0004'`), `points_path`, `image_path` (empty where none belongs
    to the scan), `sequence`, `frame` (number in the sequence), `timestamp` [s], and `lidar_to_image`, (4, 4) float64
    that takes x, y, z, 1 to u w, v w, w, 1, with u, v in pixels and w the depth [m], and `image_size`, width and height
    of the images in their files.
    """


class RigSample(BoxSample):
    """Boxes, map and depths around a car with N cameras, and what is predicted of them.

    The frame that boxes and maps lie in is `bev_frame`: `'lidar'`, the data set's LiDAR, `'ego'`, the car's (x forward,
    y left, z up, origin on the ground), or `'flat_ego'`, the car's turned upright, which keeps its heading alone.
    Maps have M layers of Y rows along the frame's y and X columns along its x.

    Data fields beside those of BoxSample, all optional tensors:
        attributes: (K,) int64 rows of the data set's `attributes`, -1 none.
        visibility: (K,) int64 1 to 4, the higher the more is seen, 0 unknown.
        map_labels: (M, Y, X) uint8, 1 where a layer is.
        map_mask: (Y, X) bool, where the map counts; everywhere without.
        depth: (N, h, w) float32 least depth [m] in each block of the input images, 0 unknown.
        pred_attributes: (P,) int64; without, they follow from the speed.
        pred_map: (M, Y, X) float32 probabilities.
        pred_depth: (N, h, w) float32 [m].

    Meta information: `sample_id`, `image_paths` and `cameras` (N files and names), `points_path`, `bev_frame`,
    `frame_to_world` and `ego_to_world` (4, 4) float64, `timestamp` [s], `scene`, `location`, `image_shape` (H, W) of
    the input; of rigs that are not nuScenes' `distortions` of the N files, see `perception/bev/rig.py`, and `source`,
    one of these, which tells the moment; where there are maps `map_bounds`, least x, y, greatest x, y [m], `map_preset`
    and `map_classes`, M names; where the official score is computed `annotations`, see `Annotations` of
    `perception/bev/datasets/nuscenes/reader.py`.
    """


class SteeringSample(Sample):
    """What is known and predicted of one clip of T frames of a driving recording.

    Data fields, all optional tensors with one row per frame in order of time:
        targets: (T, 3) float32 steering-wheel angle [deg], positive to the left, torque (Comma.ai: rate [deg/s]) and
            speed [m/s]; NaN where unknown.
        actions: (T,) int64 what the driver does, 255 = unknown.
        first: (T,) bool, True where a frame starts its recording: nothing of an earlier one is carried over.
        scored: (T,) bool, True where a frame counts: of all clips of a test exactly one scores a frame.
        public: (T,) int64, 1 and 0 in the public and the private half of a challenge's test, -1 = in none.
        flow: (T, 2, H, W) float32 optical flow from the frame before, to the right and down [pixel], NaN where unknown.
        pred_targets: (T, 3) float32 as `targets`.
        pred_actions: (T, A) float32 probabilities.

    Meta information: `sample_id` (unique, recording/first frame), `recording`, `frames` (names, unique within the
    recording), `image_paths` (T files, empty where frames are no files), `source` (these, else the frames themselves,
    (T, H, W, 3) uint8), `timestamps` (T) [s], `condition` (light of simulated recordings, else empty).
    """
