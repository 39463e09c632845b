# The student taught channel by channel, on CamVid
# python tools/train.py configs/camvid_cwd.py
_base_ = ['./camvid_pspnet_student.py', './_base_/distill_seg.py']
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='configs/camvid_pspnet_teacher.py',
        checkpoint='work_dirs/camvid_pspnet_teacher/iter_2000.pth',
    ),
    losses=dict(cwd=dict(type='kd_dense.ChannelWise', stages=('logits',), temperature=4, weight=3)),
)
