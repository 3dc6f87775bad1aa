"""The simulated folder of own images."""
from perception.lanes.datasets.folder.mini import write_lane_folder_mini
from perception.lanes.datasets.folder.reader import LaneFolder


def test_a_folder_of_full_hd_images_is_read(tmp_path):
    root = write_lane_folder_mini(tmp_path / 'x', train=2, val=1, test=1, detail=.02, length=180, workers=1)
    dataset = LaneFolder(root, 'train', splits=dict(train='train', val='val', test='test'), input_size=(32, 64))
    found = [dataset[k]['data_samples'] for k in range(2)]
    assert [sample.sample_id for sample in found] == ['train/drive_00/000000', 'train/drive_00/000001']
    for sample in found:
        assert sample.original_shape == (1080, 1920) and sample.exist.sum() == len(sample.lanes) > 0
        assert all(lane[0, 1] > lane[-1, 1] for lane in sample.lanes)
