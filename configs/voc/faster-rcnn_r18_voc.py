# The student alone, 8 GPUs x 2 images; no figure is published, none was measured by us
# tools/dist_train.sh configs/voc/faster-rcnn_r18_voc.py 8
_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    '../_base_/datasets/voc.py',
    '../_base_/schedules/voc.py',
]
model = dict(
    backbone=dict(depth=18, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')),
    neck=dict(in_channels=[64, 128, 256, 512]),
    roi_head=dict(bbox_head=dict(num_classes=20)),
)
