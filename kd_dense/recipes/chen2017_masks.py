# The losses of Chen et al. 2017 on both heads of a two-stage detector, and the masks of its objects
# as the teacher draws them (soft targets; ours): for Mask R-CNN and Cascade Mask R-CNN.
_base_ = ['./chen2017.py']
recipe = dict(_delete_=True, preferred={'two-stage': 0})
losses = dict(mask=dict(type='kd_dense.MaskDistillation', temperature=1, weight=1.0))
