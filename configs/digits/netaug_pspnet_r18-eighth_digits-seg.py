# A tiny segmentor trained as the corner of wider networks too (NetAug, Cai et al. 2022); it is shipped alone
# python tools/train.py configs/digits/netaug_pspnet_r18-eighth_digits-seg.py
_base_ = ['./pspnet_r18-eighth_digits-seg.py', '../../kd_dense/recipes/_base_/distill_seg.py']
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    peers=dict(
        wide=dict(
            type='kd_dense.Wider',
            model={{_base_.model}},
            widths=(1.5, 2, 3),
            changes=dict(
                backbone=dict(base_channels='x', stem_channels='x'),
                decode_head=dict(in_channels='x'),
                auxiliary_head=dict(in_channels='x'),
            ),
            # the head reads the backbone's last map beside four poolings of it
            pieces={'decode_head.bottleneck.conv': (64, 16, 16, 16, 16)},
        )
    ),
)
optim_wrapper = dict(constructor='kd_dense.LiveOptimWrapperConstructor')
custom_hooks = [
    dict(type='kd_dense.StudentCheckpointHook'),
    # the last quarter is the student's own
    dict(type='kd_dense.WeightScheduleHook', peers=dict(wide=dict(kind='stop', begin=600))),
]
