# The student alone: a GFL R18 at a quarter of its width
# python tools/train.py configs/digits_student.py
_base_ = ['./_base_/digits.py', './_base_/gfl_small.py', './_base_/short_schedule.py']
