# The student alone: a PSPNet R18 at a quarter of its width
# python tools/train.py configs/digits_pspnet_student.py
_base_ = [
    './_base_/digits_seg.py',
    './_base_/pspnet_small.py',
    './_base_/short_schedule_seg.py',
]
