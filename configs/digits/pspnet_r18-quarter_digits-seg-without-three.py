# The student alone, on scenes without `three`: it never finds one
# python tools/train.py configs/digits/pspnet_r18-quarter_digits-seg-without-three.py
_base_ = [
    '../_base_/datasets/digits_seg_without_three.py',
    '../_base_/models/pspnet_r18_quarter.py',
    '../_base_/schedules/short_seg.py',
]
custom_imports = dict(imports=['kd_dense', 'kd_dense.hooks'], allow_failed_imports=False)
custom_hooks = [dict(type='kd_dense.ClassMetricsHook')]
