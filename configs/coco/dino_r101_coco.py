# The teacher, DINO R101, 36 epochs; none is published with this schedule, and none was measured by us
# tools/dist_train.sh configs/coco/dino_r101_coco.py 8
_base_ = ['./dino_r50_coco.py']
model = dict(
    backbone=dict(
        depth=101, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101')
    ),
)
train_cfg = dict(max_epochs=36)
param_scheduler = [
    dict(type='MultiStepLR', begin=0, end=36, by_epoch=True, milestones=[30], gamma=0.1)
]
