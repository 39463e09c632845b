# The student alone: a GFL R18 at a quarter of its width
# python tools/train.py configs/digits/gfl_r18-quarter_digits.py
_base_ = [
    '../_base_/datasets/digits.py',
    '../_base_/models/gfl_r18_quarter.py',
    '../_base_/schedules/short.py',
]
