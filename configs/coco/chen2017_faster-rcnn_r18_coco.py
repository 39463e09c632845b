# Learning efficient object detection models with knowledge distillation (Chen et al. 2017): R101 (39.8 AP)
# teaches R18. No COCO figure of this pair is published, and none was measured by us
# tools/dist_train.sh configs/coco/chen2017_faster-rcnn_r18_coco.py 8
_base_ = ['./faster-rcnn_r18_coco.py', '../../kd_dense/recipes/chen2017.py']
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::faster_rcnn/faster-rcnn_r101_fpn_2x_coco.py',
        checkpoint='https://mmassets.onedl.ai/mmdetection/v2.0/faster_rcnn/faster_rcnn_r101_fpn_2x_coco/'
        'faster_rcnn_r101_fpn_2x_coco_bbox_mAP-0.398_20200504_210455-1d2dac9c.pth',
    ),
    losses={{_base_.losses}},
)
