# DINO R18 alone, 12 epochs; none is published with this schedule, and none was measured by us
# tools/dist_train.sh configs/coco/dino_r18_coco.py 8
_base_ = ['./dino_r50_coco.py']
model = dict(
    backbone=dict(depth=18, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')),
    neck=dict(in_channels=[128, 256, 512]),
)
