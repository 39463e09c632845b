# A smaller student, alone: a PSPNet R18 at an eighth of its width, which leaves a gap that an assistant may bridge
# python tools/train.py configs/digits/pspnet_r18-eighth_digits-seg.py
_base_ = ['./pspnet_r18-quarter_digits-seg.py']
model = dict(
    backbone=dict(base_channels=8, stem_channels=8),
    decode_head=dict(in_channels=64, channels=16),
    auxiliary_head=dict(in_channels=32, channels=8),
)
