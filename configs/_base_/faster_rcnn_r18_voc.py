# Faster R-CNN R18 on VOC 07+12.
_base_ = ['mmdet::_base_/models/faster-rcnn_r50_fpn.py', './voc.py']
model = dict(
    backbone=dict(depth=18, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')),
    neck=dict(in_channels=[64, 128, 256, 512]),
    roi_head=dict(bbox_head=dict(num_classes=20)),
)
