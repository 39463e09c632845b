# SegFormer B2 (45.58 mIoU published by mmseg) teaches B0 (37.41) on ADE20K, channel by channel; not measured by us
# tools/dist_train.sh configs/ade20k/cwd_segformer_b0_ade20k.py 8
_base_ = ['./segformer_b0_ade20k.py', '../../kd_dense/recipes/cwd.py']
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmseg::segformer/segformer_mit-b2_8xb2-160k_ade20k-512x512.py',
        checkpoint='https://mmassets.onedl.ai/mmsegmentation/v0.5/segformer/'
        'segformer_mit-b2_512x512_160k_ade20k/'
        'segformer_mit-b2_512x512_160k_ade20k_20210726_112103-cbd414ac.pth',
    ),
    losses={{_base_.losses}},
)
