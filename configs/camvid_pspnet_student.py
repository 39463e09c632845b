# The student alone, on CamVid at half its size: a PSPNet R18 at a quarter of its width
# python tools/train.py configs/camvid_pspnet_student.py
_base_ = [
    './_base_/camvid_small.py',
    './_base_/pspnet_small.py',
    './_base_/short_schedule_seg.py',
]
