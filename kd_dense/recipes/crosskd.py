# CrossKD: the teacher's last layers predict from the student's head, one-stage (Wang et al. 2024).
_base_ = ['./_base_/distill.py']
losses = dict(
    cls=dict(type='kd_dense.CrossHead', part='cls', weight=1.0),
    box=dict(type='kd_dense.CrossHead', part='box', weight=1.0),
)
