# The losses of Chen et al. 2017 on a one-stage detector: RetinaNet R101 (38.9 AP) teaches R18 (31.7 alone, both
# by mmdet); not measured by us
# tools/dist_train.sh configs/coco/chen2017_retinanet_r18_coco.py 8
_base_ = ['./retinanet_r18_coco.py', '../../kd_dense/recipes/_base_/distill.py']
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::retinanet/retinanet_r101_fpn_2x_coco.py',
        checkpoint='https://mmassets.onedl.ai/mmdetection/v2.0/retinanet/retinanet_r101_fpn_2x_coco/'
        'retinanet_r101_fpn_2x_coco_20200131-5560aee8.pth',
    ),
    losses=dict(
        hint=dict(type='kd_dense.FeatureImitation', adapter='conv1x1', weight=0.5),
        # mu=None: the focal loss, which has its own way with the background, stays whole; the soft one
        # has no such way, and is a sum over all anchors / positives
        cls=dict(type='kd_dense.ClassWeightedSoftCrossEntropy', part='dense', mu=None, weight=0.05),
        reg=dict(type='kd_dense.BoundedRegression', part='dense', margin=0, weight=0.5),
    ),
)
