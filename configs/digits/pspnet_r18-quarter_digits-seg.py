# The student alone: a PSPNet R18 at a quarter of its width
# python tools/train.py configs/digits/pspnet_r18-quarter_digits-seg.py
_base_ = [
    '../_base_/datasets/digits_seg.py',
    '../_base_/models/pspnet_r18_quarter.py',
    '../_base_/schedules/short_seg.py',
]
