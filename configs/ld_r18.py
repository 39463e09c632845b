# COCO box AP of the student: 35.8 without a teacher, 36.5 (main region), 37.5 (all three) published with
# localization distillation (Zheng et al. 2022); not reproduced by us
# tools/dist_train.sh configs/ld_r18.py 8        (one GPU: python tools/train.py configs/ld_r18.py --auto-scale-lr)
_base_ = ['./coco/gfl_r18_coco.py', '../kd_dense/recipes/ld.py']
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py',
        checkpoint='https://mmassets.onedl.ai/mmdetection/v2.0/gfl/gfl_r101_fpn_mstrain_2x_coco/'
        'gfl_r101_fpn_mstrain_2x_coco_20200629_200126-dd12f847.pth',
    ),
    losses={{_base_.losses}},
)
