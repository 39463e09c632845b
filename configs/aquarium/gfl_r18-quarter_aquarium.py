# The student alone, from scratch
# python tools/train.py configs/aquarium/gfl_r18-quarter_aquarium.py
_base_ = [
    '../_base_/datasets/aquarium.py',
    '../_base_/models/gfl_r18_quarter.py',
    '../_base_/schedules/short.py',
]
max_iters = 2000
model = dict(bbox_head=dict(num_classes=7))
train_cfg = dict(max_iters=max_iters, val_interval=500)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, eta_min=1e-5),
]
