# The student alone: a Faster R-CNN R18 at a quarter of its width
# python tools/train.py configs/digits/faster-rcnn_r18-quarter_digits.py
_base_ = [
    '../_base_/datasets/digits.py',
    '../_base_/models/faster_rcnn_r18_quarter.py',
    '../_base_/schedules/short.py',
]
