# Localization distillation of heads that predict distributions (Zheng et al. 2022).
_base_ = ['./_base_/distill.py']
recipe = dict(preferred={'one-stage': 1})
losses = dict(
    ld=dict(type='kd_dense.LocalizationDistillation', region='main', temperature=10, weight=0.25),
    vlr=dict(type='kd_dense.LocalizationDistillation', region='vlr', temperature=10, weight=0.25),
    cls=dict(
        type='kd_dense.SoftTargets',
        region='main',
        temperature=2,
        activation='softmax',
        over_classes='mean',
        weight=10,
    ),
    # feature imitation on top: 42.1 to 42.4 AP published for R50; set the weight to 2 to use it
    imitation=dict(type='kd_dense.FeatureImitation', region='main', weight=0),
)
