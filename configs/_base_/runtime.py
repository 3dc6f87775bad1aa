"""What every run shares: hooks, log, randomness.

Beside what a training needs, a config names what the tools use; each `dict(type=CLASS, ...)` may hold arguments more:
    predictor = dict(type=...)       tools/visualize.py, Python: a Predictor, called with model, data
    tta_model = dict(type=...)       --tta MODE: called with model, mode
    tta_dataset = dict(KEY=VALUE)    there too: overrides of the data set that is tested, such as images of full size
    ensemble_model = dict(type=...)  several checkpoints, --ensemble: called with models
    saved_model = dict(type=...)     --save DIR, --submit DIR: called with model, folder, stamp, replace
    predictions = dict(type=...)     --predictions PATH: called with path
    submission = dict(type=...)      --submit DIR, with submit_dataloader: a Submission, called with out_dir
    draw = dict(type=...)            --draw DIR: a metric or hook, or a list of them, called with out_dir
    more_metrics = dict(NAME=dict(type=...))    --metrics NAME: a metric or a hook
    mini_data = dict(type=WRITER, root=...), mini = dict(...)    --mini: simulated data, overrides of the config
    mini_sheet = dict(type=...)      tools/make_mini.py --sheet PNG: called with root, path
    tiny = dict(mini_data=dict(...), ...)       overrides for the smallest simulated data, tools/benchmark.py fuzz
    tiny_sources = dict(type=...)    there too: a file of each format that people bring, called with folder
    published = dict(parameters=, gmac=, ms=)   the paper's figures, for tools/benchmark.py cost, latency
    prune = dict(type=PEEL, target=dict(...))   tools/prune.py: how the net is pruned, see perception/prune
    structure = 'structure.json'     the net is built as slim as this file says; tools/train.py --structure
    robustness = dict(NAME=[dict(type=...), ...])    steps of a disturbance, tools/benchmark.py robustness
    evidence = dict(options=['KEY=VALUE', ...], ...)    tools/benchmark.py distillation (see there), arms and prune
What a config does not name is refused with one sentence.
"""
from mmengine.hooks import DistSamplerSeedHook, IterTimerHook, LoggerHook, ParamSchedulerHook, RuntimeInfoHook
from mmengine.visualization import LocalVisBackend, Visualizer

from perception.common.hooks.checkpoint import CheckpointHook
from perception.common.hooks.export import ExportHook
from perception.common.hooks.memory import MemoryHook
from perception.common.hooks.progress import ProgressHook
from perception.common.hooks.seed import SeedHook
from perception.common.hooks.start import StartHook
from perception.common.log import LogProcessor

default_scope = 'perception'
default_hooks = dict(
    runtime_info=dict(type=RuntimeInfoHook),
    seed=dict(type=SeedHook),
    timer=dict(type=IterTimerHook),
    memory=dict(type=MemoryHook),
    sampler_seed=dict(type=DistSamplerSeedHook),
    logger=dict(type=LoggerHook, interval=50),
    param_scheduler=dict(type=ParamSchedulerHook),
    # metric that model.pth is the best by (None: the first one); rule='less' where less is better
    export=dict(type=ExportHook, metric=None),
    checkpoint=dict(type=CheckpointHook, interval=1, max_keep_ckpts=2),
    start=dict(type=StartHook),
    progress=dict(type=ProgressHook))
custom_hooks = []
env_cfg = dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
log_processor = dict(type=LogProcessor, window_size=50, by_epoch=True)
log_level = 'INFO'
visualizer = dict(type=Visualizer, vis_backends=[dict(type=LocalVisBackend)])  # tools/train.py --log adds to them
randomness = dict(seed=0, diff_rank_seed=False, deterministic=False)
load_from = None  # weights to start from
resume = False  # set by --resume
work_dir = None  # set by --work-dir; otherwise work_dirs/<folder>/<config>[_mini]
