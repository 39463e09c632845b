# BCKD: each class a binary problem, boxes by their IoU, of one-stage students (Yang et al. 2023).
_base_ = ['./_base_/distill.py']
losses = dict(
    cls=dict(type='kd_dense.BinaryDistillation', weight=1.0),
    box=dict(type='kd_dense.BoxIoUDistillation', weight=4.0),
)
