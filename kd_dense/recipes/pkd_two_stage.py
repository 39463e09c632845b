# PKD with the paper's weight for two-stage students.
_base_ = ['./pkd.py']
losses = dict(pkd=dict(weight=6.0))
