# The student alone: a GFL of 0.8 million parameters
# python tools/train.py configs/digits_student.py
_base_ = ['./_base_/gfl_digits.py']
