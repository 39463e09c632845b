# The student alone: a Faster R-CNN R18 at a quarter of its width
# python tools/train.py configs/digits_faster_rcnn_student.py
_base_ = ['./_base_/digits.py', './_base_/faster_rcnn_small.py', './_base_/short_schedule.py']
