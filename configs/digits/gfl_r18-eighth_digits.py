# A smaller student, alone: a GFL R18 at an eighth of its width, which leaves a gap that an assistant may bridge
# python tools/train.py configs/digits/gfl_r18-eighth_digits.py
_base_ = ['./gfl_r18-quarter_digits.py']
model = dict(
    backbone=dict(base_channels=8, stem_channels=8),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16),
)
