# Two students that teach each other while they learn (deep mutual learning, Zhang et al. 2018); the first is shipped
# python tools/train.py configs/digits/mutual_gfl_r18-quarter_digits.py
_base_ = ['./gfl_r18-quarter_digits.py', '../../kd_dense/recipes/_base_/distill.py']
soft = dict(
    type='kd_dense.SoftTargets', region='main', temperature=2, activation='softmax', weight=1
)
box = dict(type='kd_dense.LocalizationDistillation', region='main', weight=0.25)
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    peers=dict(b=dict(model={{_base_.model}})),
    losses=dict(
        from_b=dict(**soft, teacher='b'),
        to_b=dict(**soft, student='b', teacher='student'),
        box_from_b=dict(**box, teacher='b'),
        box_to_b=dict(**box, student='b', teacher='student'),
    ),
)
optim_wrapper = dict(constructor='kd_dense.LiveOptimWrapperConstructor')
custom_hooks = [
    dict(type='kd_dense.StudentCheckpointHook'),
    dict(type='kd_dense.StudentCheckpointHook', model='b'),
    dict(type='kd_dense.LossBalanceHook'),
    dict(type='kd_dense.DistillationPictureHook'),
    # who has learned nothing yet teaches nothing: the losses grow over the first tenth
    dict(type='kd_dense.WeightScheduleHook', schedules={'*': dict(kind='linear', end=120)}),
]
