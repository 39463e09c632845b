# A student that is deeper and thinner than its teacher, alone: a GFL R34 at an eighth of its width (the teacher is an
# R18 at half of its own)
# python tools/train.py configs/digits/gfl_r34-eighth_digits.py
_base_ = ['./gfl_r18-eighth_digits.py']
model = dict(backbone=dict(depth=34))
