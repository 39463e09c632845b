# VOC AP of the student: 51.8 without a teacher, 53.0 (main region), 54.0 (all three) published
# (Zheng et al. 2022); not reproduced by us
# tools/dist_train.sh configs/voc/gfl_r101_voc.py 8
# tools/dist_train.sh configs/voc/ld_gfl_r18_voc.py 8
_base_ = ['./gfl_r18_voc.py', '../../kd_dense/recipes/ld.py']
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='configs/voc/gfl_r101_voc.py', checkpoint='work_dirs/gfl_r101_voc/epoch_4.pth'
    ),
    losses={{_base_.losses}},
)
