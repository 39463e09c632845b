# An exit behind the third of four stages learns from the deepest (be your own teacher, Zhang et al. 2019)
# python tools/train.py configs/digits/exits_gfl_r18-quarter_digits.py
_base_ = ['./gfl_r18-quarter_digits.py', '../../kd_dense/recipes/_base_/distill.py']
# all that runs before the models part, what has no weights too
trunk = [
    f'backbone.{part}' for part in ('conv1', 'bn1', 'relu', 'maxpool', 'layer1', 'layer2', 'layer3')
]
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    peers=dict(
        exit3=dict(
            model={{_base_.model}},
            shares=trunk,
            weight=0.7,  # 1 - alpha
            changes=dict(
                backbone=dict(
                    num_stages=3, out_indices=(0, 1, 2), strides=(1, 2, 2), dilations=(1, 1, 1)
                ),
                neck=dict(in_channels=[16, 32, 64], add_extra_convs='on_output'),
            ),
        )
    ),
    losses=dict(
        cls=dict(
            type='kd_dense.SoftTargets',
            student='exit3',
            teacher='student',
            region='main',
            temperature=3,
            activation='softmax',
            weight=0.3,  # alpha
        ),
        box=dict(
            type='kd_dense.LocalizationDistillation',
            student='exit3',
            teacher='student',
            region='main',
            weight=0.25,
        ),
        hint=dict(type='kd_dense.FeatureImitation', student='exit3', teacher='student', weight=0.5),
    ),
)
optim_wrapper = dict(constructor='kd_dense.LiveOptimWrapperConstructor')
custom_hooks = [
    dict(type='kd_dense.StudentCheckpointHook'),
    dict(type='kd_dense.StudentCheckpointHook', model='exit3'),
]
