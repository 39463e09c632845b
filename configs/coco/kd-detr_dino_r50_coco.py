# Shared queries (Wang et al. 2024): DINO R101 teaches R50. No COCO figure of this pair is published
# with this method and schedule, and none was measured by us
# tools/dist_train.sh configs/coco/dino_r101_coco.py 8
# tools/dist_train.sh configs/coco/kd-detr_dino_r50_coco.py 8
_base_ = ['./dino_r50_coco.py', '../../kd_dense/recipes/detr.py']
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='configs/coco/dino_r101_coco.py',
        checkpoint='work_dirs/dino_r101_coco/epoch_36.pth',
    ),
    losses={{_base_.losses}},
)
