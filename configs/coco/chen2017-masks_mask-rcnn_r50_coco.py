# R101 (40.8 box and 36.6 mask AP) teaches R50 (38.2 and 34.7 alone, all by mmdet); not measured by us
# tools/dist_train.sh configs/coco/chen2017-masks_mask-rcnn_r50_coco.py 8
_base_ = ['./chen2017-masks_mask-rcnn_r18_coco.py']
model = dict(
    student=dict(
        backbone=dict(
            depth=50, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')
        ),
        neck=dict(in_channels=[256, 512, 1024, 2048]),
    )
)
