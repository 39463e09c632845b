# The student alone, on digits in the form of Pascal VOC
# python tools/train.py configs/digits/faster-rcnn_r18-quarter_digits-voc.py
_base_ = [
    '../_base_/datasets/digits_voc.py',
    '../_base_/models/faster_rcnn_r18_quarter.py',
    '../_base_/schedules/short.py',
]
