# FGD with the paper's weights for two-stage students.
_base_ = ['./fgd.py']
recipe = dict(instead_of='fgd', families=['two-stage'])
losses = dict(fgd=dict(foreground=5e-5, background=2.5e-5, attention=5e-5, relation=5e-7))
