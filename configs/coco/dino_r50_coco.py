# DINO R50 alone, 12 epochs: COCO box AP 49.0 (MMDetection); not measured by us
# tools/dist_train.sh configs/coco/dino_r50_coco.py 8
_base_ = ['mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py']
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
