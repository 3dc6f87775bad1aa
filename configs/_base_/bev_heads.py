"""What the heads of camera nets share, and small ones for simulated data."""
from perception.bev.models.map_head import MapHead
from perception.bev.preprocessor import RigPreprocessor
from perception.common.nets.center_head import CenterHead

images = dict(type=RigPreprocessor)  # ImageNet's mean and deviation
detection_grid = dict(x=(-51.2, 51.2, 0.8), y=(-51.2, 51.2, 0.8), z=(-10, 10))  # m
lss_grid = dict(x=(-50, 50, 0.5), y=(-50, 50, 0.5), z=(-10, 10))  # m, of LSS and CVT
mini_cells = dict(x=(-25.6, 25.6, 0.8), y=(-25.6, 25.6, 0.8))  # 64 x 64

boxes = dict(  # BEVDet, with Scale-NMS
    type=CenterHead,
    tasks=[['car'], ['truck', 'construction_vehicle'], ['bus', 'trailer'], ['barrier'], ['motorcycle', 'bicycle'],
           ['pedestrian', 'traffic_cone']],
    classes=['car', 'truck', 'bus', 'trailer', 'construction_vehicle', 'pedestrian', 'motorcycle', 'bicycle',
             'traffic_cone', 'barrier'],
    max_detections=500,
    score_threshold=0.1,
    post_range=(-61.2, -61.2, -10, 61.2, 61.2, 10),  # m
    nms=('rotated', 'rotated', 'rotated', 'circle', 'rotated', 'rotated'),
    nms_threshold=(0.2, 0.2, 0.2, 1.0, 0.2, 0.5),  # IoU; m for barriers
    nms_factors=dict(truck=0.7, construction_vehicle=0.7, bus=0.4, trailer=0.55, pedestrian=4.5, traffic_cone=9.0),
    max_kept=83)  # 6 x 83 are fewer than the 500 that count
mini_boxes = dict(  # one task, whose heat maps learn faster from few samples than those of six
    tasks=[boxes['classes']], shared_channels=32, head_channels=16, score_threshold=0.05, nms='rotated',
    nms_threshold=0.2, nms_per_class=True, max_kept=None)

layers = ('drivable_area', 'ped_crossing', 'walkway', 'stop_line', 'carpark_area', 'divider')
map_head = dict(  # BEVFusion: focal loss of each layer, on its own grid
    type=MapHead, classes=layers, label_grid=dict(x=(-50, 50, 0.5), y=(-50, 50, 0.5)))
mini_map = dict(label_grid=mini_cells, channels=32)
