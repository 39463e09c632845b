# Merit-based distillation of the proposals' classes of two-stage students (Morikawa 2023).
_base_ = ['./_base_/distill.py']
recipe = dict(instead_of='merit', families=['two-stage'])
losses = dict(merit=dict(type='kd_dense.MeritBased', kind='soft', part='roi', temperature=1))
