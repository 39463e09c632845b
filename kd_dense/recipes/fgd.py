# FGD: features of objects and background apart, and their context, one-stage (Yang et al. 2022).
# Published with `model.inherit=True`: the teacher's neck and head to start with. For FCOS:
# foreground=1.6e-3, background=8e-4, attention=8e-4, relation=8e-6, temperature=0.8.
_base_ = ['./_base_/distill.py']
losses = dict(
    fgd=dict(
        type='kd_dense.FocalGlobal',
        foreground=1e-3,
        background=5e-4,
        attention=5e-4,
        relation=5e-6,
        temperature=0.5,
    )
)
