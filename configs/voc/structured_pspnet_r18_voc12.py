# PSPNet R101 (78.52 mIoU published by mmseg) teaches R18 on VOC 2012; not measured by us
# tools/dist_train.sh configs/voc/structured_pspnet_r18_voc12.py 4
_base_ = ['./pspnet_r18_voc12.py', '../../kd_dense/recipes/structured.py']
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmseg::pspnet/pspnet_r101-d8_4xb4-40k_voc12aug-512x512.py',
        checkpoint='https://mmassets.onedl.ai/mmsegmentation/v0.5/pspnet/pspnet_r101-d8_512x512_40k_voc12aug/'
        'pspnet_r101-d8_512x512_40k_voc12aug_20200613_161222-bc933b18.pth',
    ),
    losses={{_base_.losses}},
)
optim_wrapper = dict(
    _delete_=True,
    constructor='kd_dense.AdversarialOptimWrapperConstructor',
    student={{_base_.optim_wrapper}},
    discriminator={{_base_.discriminator}},
)
