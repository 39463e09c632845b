# For segmentation: AdamW with cosine decay from an ImageNet backbone, for two CPU cores; validated eight times.
_base_ = ['./short_seg.py']
max_iters = 800
train_cfg = dict(max_iters=max_iters, val_interval=100)
optim_wrapper = dict(optimizer=dict(lr=0.001))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, eta_min=1e-5),
]
