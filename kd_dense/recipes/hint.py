# Hints on all feature levels (Romero et al. 2015): a trained 1x1 convolution, levels of other
# sizes interpolated.
_base_ = ['./_base_/distill.py']
recipe = dict(preferred={'any': 4})
losses = dict(
    hint=dict(type='kd_dense.FeatureImitation', adapter='conv1x1', align='interpolate', weight=0.5)
)
