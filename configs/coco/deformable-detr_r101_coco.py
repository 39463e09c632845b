# The teacher, Deformable DETR R101: COCO box AP 44.8 (published by Chang et al. 2023); not measured by us
# tools/dist_train.sh configs/coco/deformable-detr_r101_coco.py 8
_base_ = ['./deformable-detr_r50_coco.py']
model = dict(
    backbone=dict(
        depth=101, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101')
    ),
)
