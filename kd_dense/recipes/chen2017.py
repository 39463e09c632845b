# The losses of Chen et al. 2017, on both heads of a two-stage detector.
_base_ = ['./_base_/distill.py']
recipe = dict(preferred={'two-stage': 1})
losses = dict(
    # gamma: hints on all feature levels, with an adaptation also where the channels agree
    hint=dict(type='kd_dense.FeatureImitation', adapter='conv1x1', weight=0.5),
    # mu, and the weight of the background
    rpn_cls=dict(
        type='kd_dense.ClassWeightedSoftCrossEntropy', part='rpn', mu=0.5, background_weight=1.5
    ),
    roi_cls=dict(
        type='kd_dense.ClassWeightedSoftCrossEntropy', part='roi', mu=0.5, background_weight=1.5
    ),
    # the margin m, and nu
    rpn_reg=dict(type='kd_dense.BoundedRegression', part='rpn', margin=0, weight=0.5),
    roi_reg=dict(type='kd_dense.BoundedRegression', part='roi', margin=0, weight=0.5),
)
