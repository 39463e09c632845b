# The student alone, on CamVid at half its size: a PSPNet R18 at a quarter of its width
# python tools/train.py configs/camvid/pspnet_r18-quarter_camvid.py
_base_ = [
    '../_base_/datasets/camvid_small.py',
    '../_base_/models/pspnet_r18_quarter.py',
    '../_base_/schedules/short_seg.py',
]
max_iters = 1200
train_cfg = dict(max_iters=max_iters, val_interval=300)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, eta_min=1e-5),
]
