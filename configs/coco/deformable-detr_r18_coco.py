# Deformable DETR R18 alone: COCO box AP 40.0 (published by Chang et al. 2023); not measured by us
# tools/dist_train.sh configs/coco/deformable-detr_r18_coco.py 8
_base_ = ['./deformable-detr_r50_coco.py']
model = dict(
    backbone=dict(depth=18, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')),
    neck=dict(in_channels=[128, 256, 512]),
)
