# The student taught by its own running average (mean teacher, Tarvainen and Valpola 2017); the losses come in slowly
# python tools/train.py configs/digits/mean-teacher_gfl_r18-quarter_digits.py
_base_ = ['./gfl_r18-quarter_digits.py', '../../kd_dense/recipes/_base_/distill.py']
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teacher=dict(type='kd_dense.EMATeacher'),  # half-life: 2 % of the schedule, 24 steps
    losses=dict(
        cls=dict(
            type='kd_dense.SoftTargets',
            region='main',
            temperature=2,
            activation='softmax',
            weight=1,
        ),
        ld=dict(type='kd_dense.LocalizationDistillation', region='main', weight=0.25),
    ),
)
custom_hooks = [
    dict(type='kd_dense.StudentCheckpointHook'),
    dict(type='kd_dense.LossBalanceHook', begin=360),
    dict(type='kd_dense.DistillationPictureHook'),
    dict(
        type='kd_dense.WeightScheduleHook',
        schedules={'*': dict(kind='linear', begin=120, end=360)},
    ),
]
