# The student alone, 12 epochs at 1333x800, boxes and masks; no COCO figure is published, and none was measured by us
# tools/dist_train.sh configs/coco/mask-rcnn_r18_coco.py 8
_base_ = ['mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py']
data_root = '{{$COCO_ROOT:data/coco}}/'
data_help = (
    'Download train2017, val2017 and their annotations from cocodataset.org into data/coco '
    '(or name a folder by COCO_ROOT).'
)
model = dict(
    backbone=dict(depth=18, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator
