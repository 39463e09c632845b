# The teacher, on CamVid at half its size: twice the student's width, trained for longer
# python tools/train.py configs/camvid/pspnet_r18-half_camvid.py
_base_ = ['./pspnet_r18-quarter_camvid.py']
max_iters = 2000
model = dict(
    backbone=dict(base_channels=32, stem_channels=32),
    decode_head=dict(in_channels=256, channels=64),
    auxiliary_head=dict(in_channels=128, channels=32),
)
train_cfg = dict(max_iters=max_iters, val_interval=500)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=max_iters, eta_min=1e-5),
]
