"""What every run shares: hooks, log, randomness.

A config may further define what tools/test.py uses (see perception/apis/test.py):
    tta_model = dict(type=...)                          for --tta MODE
    submit_dataloader = dict(...), submission = dict(type=...)    for --submit DIR
    draw = dict(type=...)                               for --draw DIR
and at its end, for --mini:
    mini_data = dict(type=WRITER, root='data/mini/...')
    mini = dict(...)                                    nested overrides in the shape of the config
"""
from mmengine.hooks import DistSamplerSeedHook, IterTimerHook, LoggerHook, ParamSchedulerHook, RuntimeInfoHook
from mmengine.runner import LogProcessor

from perception.common.hooks.checkpoint import CheckpointHook
from perception.common.hooks.export import ExportHook
from perception.common.hooks.memory import MemoryHook
from perception.common.hooks.seed import SeedHook
from perception.common.hooks.start import StartHook

default_scope = 'perception'
default_hooks = dict(
    runtime_info=dict(type=RuntimeInfoHook),
    seed=dict(type=SeedHook),
    timer=dict(type=IterTimerHook),
    memory=dict(type=MemoryHook),
    sampler_seed=dict(type=DistSamplerSeedHook),
    logger=dict(type=LoggerHook, interval=50),
    param_scheduler=dict(type=ParamSchedulerHook),
    export=dict(type=ExportHook, metric=None),  # the metric that model.pth is the best by; None: the first one
    checkpoint=dict(type=CheckpointHook, interval=1, max_keep_ckpts=2),
    start=dict(type=StartHook))
custom_hooks = []
env_cfg = dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
log_processor = dict(type=LogProcessor, window_size=50, by_epoch=True)
log_level = 'INFO'
randomness = dict(seed=0, diff_rank_seed=False, deterministic=False)
load_from = None  # weights to start from
resume = False  # set by --resume
work_dir = None  # set by --work-dir; otherwise work_dirs/<config>[_mini]
