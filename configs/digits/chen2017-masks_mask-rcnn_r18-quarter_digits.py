# The student taught by all losses of Chen et al. 2017, and by the masks that the teacher draws in its boxes
# python tools/train.py configs/digits/chen2017-masks_mask-rcnn_r18-quarter_digits.py
_base_ = ['./mask-rcnn_r18-quarter_digits.py', '../../kd_dense/recipes/chen2017_masks.py']
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='configs/digits/mask-rcnn_r18-half_digits.py',
        checkpoint='work_dirs/mask-rcnn_r18-half_digits/iter_2000.pth',
    ),
    losses={{_base_.losses}},
)
