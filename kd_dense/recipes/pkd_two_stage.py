# PKD with the paper's weight for two-stage students.
_base_ = ['./pkd.py']
recipe = dict(_delete_=True, instead_of='pkd', families=['two-stage'])
losses = dict(pkd=dict(weight=6.0))
