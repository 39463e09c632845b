# The student alone: a Mask R-CNN R18 at a quarter of its width
# python tools/train.py configs/digits/mask-rcnn_r18-quarter_digits.py
_base_ = [
    '../_base_/datasets/digits_masks.py',
    '../_base_/models/mask_rcnn_r18_quarter.py',
    '../_base_/schedules/short.py',
]
