# The student taught pixel by pixel and pair by pair, on CamVid
# python tools/train.py configs/camvid_pixel_pair.py
_base_ = ['./camvid_pspnet_student.py', './_base_/recipes/structured.py']
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='configs/camvid_pspnet_teacher.py',
        checkpoint='work_dirs/camvid_pspnet_teacher/iter_2000.pth',
    ),
    losses=dict(pixel={{_base_.losses.pixel}}, pair={{_base_.losses.pair}}),
)
