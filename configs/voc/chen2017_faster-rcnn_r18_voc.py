# VOC 07+12: R101 teaches R18; AP50 and the mean over IoU 0.5 to 0.95; not measured by us (published for other
# networks: weighted soft cross entropy +0.3, bounded regression +1.3, adaptation +1.1 AP50)
# tools/dist_train.sh configs/voc/faster-rcnn_r101_voc.py 8
# tools/dist_train.sh configs/voc/chen2017_faster-rcnn_r18_voc.py 8
_base_ = ['./faster-rcnn_r18_voc.py', '../../kd_dense/recipes/chen2017.py']
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='configs/voc/faster-rcnn_r101_voc.py',
        checkpoint='work_dirs/faster-rcnn_r101_voc/epoch_4.pth',
    ),
    losses={{_base_.losses}},
)
