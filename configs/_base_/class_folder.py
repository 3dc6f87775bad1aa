"""Images and classes of one's own, by a table or by folders: to be copied and changed; see perception/plugins/medical.
The fold is held out: --cfg-options {train,val,test}_dataloader.dataset.fold=1, or all by tools/benchmark.py folds."""
from mmengine.dataset import DefaultSampler, pseudo_collate

from perception.common.samplers import EpochSampler
from perception.plugins.medical.datasets.folder.mini import write_class_folder_mini
from perception.plugins.medical.datasets.folder.reader import ClassFolder
from perception.plugins.medical.draw import DrawClasses
from perception.plugins.medical.metrics import ClassMetric
from perception.plugins.medical.predictor import ClassPredictor
from perception.plugins.medical.preprocessor import ViewPreprocessor
from perception.plugins.medical.transforms import RandomAffine, RandomMirror, RandomRightAngle, TwoViews

classes = ('naevus', 'melanoma', 'angioma')  # as the table calls them, in the order of the net's outputs
data = dict(
    type=ClassFolder, data_root='data/class_folder',  # PERCEPTION_DATA replaces the leading data
    classes=classes, table='photos.csv', image='photo', label='diagnosis', group='patient',  # table=None: folders
    folds='grouped', fold=0, input_size=(224, 224))  # folds='stratified' where nobody knows the patients
net = dict(data_preprocessor=dict(type=ViewPreprocessor), num_classes=len(classes))
epoch = 25  # iterations, for CRCKD: images to train with / batch size

one_view = [dict(type=RandomAffine, max_degrees=10, max_shift=0.02), dict(type=RandomMirror)]
two_views = [dict(type=TwoViews, both=one_view, teacher=[dict(type=RandomRightAngle)])]
train_dataloader = dict(
    batch_size=64, num_workers=4, persistent_workers=True,
    sampler=dict(type=EpochSampler, shuffle=True), collate_fn=dict(type=pseudo_collate),
    dataset=dict(split='train', pipeline=one_view, seed=0, **data))
val_dataloader = dict(
    batch_size=64, num_workers=4, persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(split='val', **data))
test_dataloader = dict(
    batch_size=64, num_workers=4, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(split='val', **data))

val_evaluator = dict(type=ClassMetric)
test_evaluator = dict(type=ClassMetric)
predictor = dict(type=ClassPredictor)  # --view cam, --teacher CKPT
draw = dict(type=DrawClasses)  # --draw DIR

mini_data = dict(type=write_class_folder_mini, root='data/mini/class_folder')
tiny = dict(mini_data=dict(images=40, size=48))  # of tools/benchmark.py fuzz
mini_net = dict(growth=8, blocks=(2, 2, 2, 2), stem_channels=16, feature_dim=32, input_size=(64, 64))
mini_place = dict(data_root='data/mini/class_folder', input_size=(64, 64))
mini_epoch = 4  # iterations: 128 images in batches of 32
mini_loaders = dict(
    train_dataloader=dict(batch_size=32, num_workers=0, persistent_workers=False, dataset=mini_place),
    val_dataloader=dict(num_workers=0, persistent_workers=False, dataset=mini_place),
    test_dataloader=dict(num_workers=0, dataset=mini_place))
