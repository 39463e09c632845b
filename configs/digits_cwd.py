# The student taught channel by channel
# python tools/train.py configs/digits_cwd.py
_base_ = ['./digits_pspnet_student.py', './_base_/distill_seg.py']
model = dict(
    _delete_=True,
    type='kd_dense.Distiller',
    student={{_base_.model}},
    teacher=dict(
        config='configs/digits_pspnet_teacher.py',
        checkpoint='work_dirs/digits_pspnet_teacher/iter_1500.pth',
    ),
    losses=dict(cwd=dict(type='kd_dense.ChannelWise', stages=('logits',), temperature=4, weight=3)),
)
