# MGD: the teacher's features generated from masked ones, of one-stage students (Yang et al. 2022).
# The weight is for images of about 1333 x 800; `per_position=True, weight=115` serves other sizes.
# Published for RetinaNet with `model.inherit=True`: the teacher's neck and head to start with.
_base_ = ['./_base_/distill.py']
losses = dict(mgd=dict(type='kd_dense.MaskedGeneration', masked=0.65, weight=2e-5))
