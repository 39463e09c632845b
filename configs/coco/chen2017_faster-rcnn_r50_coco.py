# R101 (39.8 AP) teaches R50 (37.4 alone, both by mmdet); not measured by us
# tools/dist_train.sh configs/coco/chen2017_faster-rcnn_r50_coco.py 8
_base_ = ['./chen2017_faster-rcnn_r18_coco.py']
model = dict(
    student=dict(
        backbone=dict(
            depth=50, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')
        ),
        neck=dict(in_channels=[256, 512, 1024, 2048]),
    )
)
