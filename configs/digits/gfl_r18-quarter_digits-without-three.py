# The student alone, on scenes without `three`: it never finds one
# python tools/train.py configs/digits/gfl_r18-quarter_digits-without-three.py
_base_ = [
    '../_base_/datasets/digits_without_three.py',
    '../_base_/models/gfl_r18_quarter.py',
    '../_base_/schedules/short.py',
]
# as many boxes as COCO evaluates, whatever their scores: a threshold would see the shift of a bias
model = dict(test_cfg=dict(nms_pre=1000, score_thr=0.001, max_per_img=100))
custom_imports = dict(imports=['kd_dense', 'kd_dense.hooks'], allow_failed_imports=False)
custom_hooks = [dict(type='kd_dense.ClassMetricsHook')]
