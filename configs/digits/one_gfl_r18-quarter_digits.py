# Three branches on one trunk, taught by their gated mean (ONE, Lan et al. 2018); the first is shipped
# python tools/train.py configs/digits/one_gfl_r18-quarter_digits.py
_base_ = ['./gfl_r18-quarter_digits.py', '../../kd_dense/recipes/_base_/distill.py']
# all that runs before the models part, what has no weights too
trunk = [
    f'backbone.{part}' for part in ('conv1', 'bn1', 'relu', 'maxpool', 'layer1', 'layer2', 'layer3')
]
names = ['student', 'b', 'c']
kinds = dict(
    cls=dict(
        type='kd_dense.SoftTargets',
        region='main',
        temperature=3,
        activation='softmax',
        weight=1,
    ),
    box=dict(type='kd_dense.LocalizationDistillation', region='main', weight=0.25),
)
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    peers=dict(
        b=dict(model={{_base_.model}}, shares=trunk), c=dict(model={{_base_.model}}, shares=trunk)
    ),
    teachers=dict(all=dict(type='kd_dense.Gate', of=names, at='backbone.2')),
    losses={
        f'{kind}_{name}': dict(loss, student=name, teacher='all')
        for name in names
        for kind, loss in kinds.items()
    },
)
optim_wrapper = dict(constructor='kd_dense.LiveOptimWrapperConstructor')
custom_hooks = [
    dict(type='kd_dense.StudentCheckpointHook'),
    dict(type='kd_dense.LossBalanceHook'),
    dict(type='kd_dense.DistillationPictureHook'),
    dict(type='kd_dense.WeightScheduleHook', schedules={'*': dict(kind='cosine', end=320)}),
]
