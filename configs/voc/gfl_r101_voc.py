# The teacher of ld_gfl_r18_voc.py: no checkpoint of it is published, train it first
# tools/dist_train.sh configs/voc/gfl_r101_voc.py 8
_base_ = ['./gfl_r18_voc.py']
model = dict(
    backbone=dict(
        depth=101, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101')
    ),
    neck=dict(in_channels=[256, 512, 1024, 2048]),
)
