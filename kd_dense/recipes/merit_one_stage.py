# Merit-based distillation on the positives of one-stage students (Morikawa 2023): sigmoid scores
# have no exact mixture, so the own class loss stays whole.
_base_ = ['./_base_/distill.py']
recipe = dict(instead_of='merit', families=['one-stage'])
losses = dict(
    merit=dict(type='kd_dense.MeritBased', kind='soft', part='dense', temperature=1, mix='add')
)
