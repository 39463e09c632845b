# VOC 07+12 trainval, three times an epoch, and VOC 2007 test.
_base_ = ['mmdet::_base_/datasets/voc0712.py']
data_root = '{{$VOC_ROOT:data/VOCdevkit}}/'
data_help = (
    'Download VOC 2007 (trainval, test) and VOC 2012 (trainval) into data/VOCdevkit '
    '(or name a folder by VOC_ROOT).'
)
train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            datasets=[
                dict(
                    type='VOCDataset',
                    data_root=data_root,
                    ann_file='VOC2007/ImageSets/Main/trainval.txt',
                    data_prefix=dict(sub_data_root='VOC2007/'),
                    filter_cfg=dict(filter_empty_gt=True, min_size=32, bbox_min_size=32),
                    pipeline={{_base_.train_pipeline}},
                ),
                dict(
                    type='VOCDataset',
                    data_root=data_root,
                    ann_file='VOC2012/ImageSets/Main/trainval.txt',
                    data_prefix=dict(sub_data_root='VOC2012/'),
                    filter_cfg=dict(filter_empty_gt=True, min_size=32, bbox_min_size=32),
                    pipeline={{_base_.train_pipeline}},
                ),
            ]
        )
    )
)
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
# AP50 as VOC counts it, and the mean over IoU 0.5 to 0.95 as COCO does
val_evaluator = dict(
    type='VOCMetric',
    metric='mAP',
    iou_thrs=[0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95],
    eval_mode='area',
)
test_evaluator = val_evaluator
