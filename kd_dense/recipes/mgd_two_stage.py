# MGD with the paper's weight for two-stage students (or `per_position=True, weight=11.5`).
_base_ = ['./mgd.py']
recipe = dict(_delete_=True, instead_of='mgd', families=['two-stage'])
losses = dict(mgd=dict(masked=0.45, weight=5e-7))
