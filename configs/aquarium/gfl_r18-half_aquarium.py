# The teacher: twice the student's width, from scratch
# python tools/train.py configs/aquarium/gfl_r18-half_aquarium.py
_base_ = ['./gfl_r18-quarter_aquarium.py']
model = dict(
    backbone=dict(base_channels=32, stem_channels=32),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64),
    bbox_head=dict(in_channels=64, feat_channels=64),
)
