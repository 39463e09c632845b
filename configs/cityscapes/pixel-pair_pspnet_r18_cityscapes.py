# Pixel-wise and pair-wise. Cityscapes mIoU: 69.10 without a teacher, 71.78 published (the paper's schedule);
# not reproduced by us
# tools/dist_train.sh configs/cityscapes/pixel-pair_pspnet_r18_cityscapes.py 4
_base_ = ['./pspnet_r18_cityscapes.py', '../../kd_dense/recipes/structured.py']
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmseg::pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024.py',
        checkpoint='https://mmassets.onedl.ai/mmsegmentation/v0.5/pspnet/pspnet_r101-d8_512x1024_80k_cityscapes/'
        'pspnet_r101-d8_512x1024_80k_cityscapes_20200606_112211-e1e1100f.pth',
    ),
    losses=dict(pixel={{_base_.losses.pixel}}, pair={{_base_.losses.pair}}),
)
