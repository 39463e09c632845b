# The student alone, on digits in the form of Pascal VOC
# python tools/train.py configs/digits_voc_faster_rcnn_student.py
_base_ = ['./_base_/digits_voc.py', './_base_/faster_rcnn_small.py', './_base_/short_schedule.py']
