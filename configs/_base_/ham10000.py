"""HAM10000 as CRCKD uses it: loaders, scores, submission, pictures, simulated data. The fold is held out:
--cfg-options {train,val,test}_dataloader.dataset.fold=1, or all five by tools/benchmark.py folds.
--cfg-options {train,val,test}_dataloader.dataset.folds=grouped keeps all images of a lesion in one fold,
test_dataloader.dataset.split=scored tests with the official test images."""
from mmengine.dataset import DefaultSampler, pseudo_collate

from perception.common.samplers import EpochSampler
from perception.plugins.medical.datasets.ham10000.mini import write_ham10000_mini
from perception.plugins.medical.datasets.ham10000.reader import HAM10000
from perception.plugins.medical.datasets.ham10000.submission import ISICSubmission
from perception.plugins.medical.draw import DrawClasses
from perception.plugins.medical.metrics import ClassMetric
from perception.plugins.medical.mini import draw_sheet
from perception.plugins.medical.predictor import ClassPredictor
from perception.plugins.medical.preprocessor import ViewPreprocessor
from perception.plugins.medical.transforms import RandomAffine, RandomMirror, RandomRightAngle, TwoViews

data_root = 'data/ham10000'  # PERCEPTION_DATA replaces the leading data
data = dict(type=HAM10000, data_root=data_root, input_size=(224, 224), folds='stratified', fold=0)
net = dict(data_preprocessor=dict(type=ViewPreprocessor), num_classes=7)
epoch = 126  # iterations: 8,012 images in batches of 64

one_view = [dict(type=RandomAffine, max_degrees=10, max_shift=0.02), dict(type=RandomMirror)]
two_views = [dict(type=TwoViews, both=one_view, teacher=[dict(type=RandomRightAngle)])]
train_dataloader = dict(
    batch_size=64, num_workers=4, persistent_workers=True,
    sampler=dict(type=EpochSampler, shuffle=True), collate_fn=dict(type=pseudo_collate),
    dataset=dict(split='train', pipeline=one_view, seed=0, **data))
val_dataloader = dict(  # the published code too has no other images to watch a training with
    batch_size=64, num_workers=4, persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(split='val', **data))
test_dataloader = dict(
    batch_size=64, num_workers=4, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(split='val', **data))
submit_dataloader = dict(
    batch_size=64, num_workers=4, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=False), collate_fn=dict(type=pseudo_collate),
    dataset=dict(split='test', **data))

val_evaluator = dict(type=ClassMetric)
test_evaluator = dict(type=ClassMetric)
predictor = dict(type=ClassPredictor)  # --view cam, --teacher CKPT
submission = dict(type=ISICSubmission)  # --submit DIR
draw = dict(type=DrawClasses)  # --draw DIR

mini_data = dict(type=write_ham10000_mini, root='data/mini/ham10000')
tiny = dict(mini_data=dict(train=80, test=2, size=48))  # of tools/benchmark.py fuzz
mini_sheet = dict(type=draw_sheet, dataset=HAM10000)
mini_net = dict(growth=8, blocks=(2, 2, 2, 2), stem_channels=16, feature_dim=32, input_size=(64, 64))
mini_place = dict(data_root='data/mini/ham10000', input_size=(64, 64))
mini_epoch = 9  # iterations: 280 images in batches of 32
mini_loaders = dict(
    train_dataloader=dict(batch_size=32, num_workers=0, persistent_workers=False, dataset=mini_place),
    val_dataloader=dict(num_workers=0, persistent_workers=False, dataset=mini_place),
    test_dataloader=dict(num_workers=0, dataset=mini_place),
    submit_dataloader=dict(num_workers=0, dataset=mini_place))

method = 'configs/crckd/densenet121_ham10000.py'
without = dict(mt='model.losses.mt.weight=0', ccd='model.losses.crckd.ccd_weight=0',
               crp='model.losses.crckd.crp_weight=0')
evidence_root = 'data/mini/ham10000_evidence'
evidence = dict(  # of tools/benchmark.py arms: each part of CRCKD alone, and all; trained with one fold, scored on four
    options=[f'mini_data.root={evidence_root}', 'mini_data.train=1400', 'train_cfg.val_interval=8',
             f'train_dataloader.dataset.data_root={evidence_root}',
             f'val_dataloader.dataset.data_root={evidence_root}',
             'train_dataloader.dataset.split=val', 'val_dataloader.dataset.split=train'],
    scores=dict(BACC='greater', F1='greater', AUC_ovr='greater', same_class='greater', other_class='less'),
    arms=dict(
        ce=['configs/medical/densenet121_ham10000.py'],
        mt=[method, without['ccd'], without['crp']],
        ccd=[method, without['mt'], without['crp']],
        crp=[method, without['mt'], without['ccd']],
        crckd=[method],
        recent=[method, 'model.teachers.mean.momentum=0.1']))  # a teacher of the last iterations
