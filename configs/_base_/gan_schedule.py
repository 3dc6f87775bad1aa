"""StyleGAN2's schedule: 450,000 iterations of 16 images, a constant rate, both nets with their own Adam; mini nets."""
from perception.common.hooks.checkpoint import CheckpointHook
from perception.common.hooks.export import ExportHook
from perception.plugins.gan.draw import SampleHook
from perception.plugins.gan.models.adversarial import LazyAdam, StepDistributed

train_cfg = dict(by_epoch=False, max_iters=450_001, val_interval=10_000)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(constructor=LazyAdam, lr=0.002, lr_mapping=1.0, lr_discriminator=1.0)
model_wrapper_cfg = dict(type=StepDistributed)
gan_hooks = dict(
    export=dict(type=ExportHook, rule='less'),  # model.pth is the best by rFID
    checkpoint=dict(type=CheckpointHook, interval=10_000, by_epoch=False),
    samples=dict(type=SampleHook, interval=1000))
mini_schedule = dict(
    train_cfg=dict(max_iters=1500, val_interval=500),
    default_hooks=dict(logger=dict(interval=50), checkpoint=dict(interval=500), samples=dict(interval=500)))
mini_net = dict(size=32, style_dim=64, num_mlp=4, channels=[64, 64, 64, 64, 32, 32, 16, 16])
mini_slim = dict(mini_net, channels=[20, 20, 20, 20, 10, 10, 5, 5])  # 70 % of the channels removed
mini_tell = dict(size=32, channels=[16, 32, 64, 64])
mini_free = dict(size=32, style_dim=64, num_mlp=2, num_layers=6, base=2048, most=32)  # a StyleGAN3
mini_free_slim = dict(mini_free, channels=[9] * 7, frequencies=32)
mini_free_schedule = dict(  # its layers have 32 + 20 pixels and twice the rate
    mini_schedule, train_cfg=dict(max_iters=300, val_interval=300),
    default_hooks=dict(mini_schedule['default_hooks'], samples=dict(interval=100)))
