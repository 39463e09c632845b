# Deformable DETR R50 alone, 50 epochs: COCO box AP 44.3 (MMDetection); not measured by us
# tools/dist_train.sh configs/coco/deformable-detr_r50_coco.py 8
_base_ = ['mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py']
data_root = '{{$COCO_ROOT:data/coco}}/'
data_help = (
    'Download train2017, val2017 and their annotations from cocodataset.org into data/coco '
    '(or name a folder by COCO_ROOT).'
)
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator
