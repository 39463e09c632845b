# All losses of Chen et al. 2017 and the masks that the teacher draws: Mask R-CNN R101 (40.8 box and 36.6 mask AP, by
# mmdet) teaches R18. No COCO figure of this pair is published, and none was measured by us
# tools/dist_train.sh configs/coco/chen2017-masks_mask-rcnn_r18_coco.py 8
_base_ = ['./mask-rcnn_r18_coco.py', '../../kd_dense/recipes/chen2017_masks.py']
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='mmdet::mask_rcnn/mask-rcnn_r101_fpn_2x_coco.py',
        checkpoint='https://mmassets.onedl.ai/mmdetection/v2.0/mask_rcnn/mask_rcnn_r101_fpn_2x_coco/'
        'mask_rcnn_r101_fpn_2x_coco_bbox_mAP-0.408__segm_mAP-0.366_20200505_071027-14b391c7.pth',
    ),
    losses={{_base_.losses}},
)
