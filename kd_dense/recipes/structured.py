# The losses of structured distillation (Liu et al. 2019), and the optimizer of its discriminator.
_base_ = ['./_base_/distill_seg.py']
recipe = dict(preferred={'segmentation': 2})
losses = dict(
    # lambda_1
    pixel=dict(type='kd_dense.PixelWise', weight=10.0),
    pair=dict(type='kd_dense.PairWise', weight=10.0, stage='head', pooling_scale=0.5),
    # lambda_2
    holistic=dict(type='kd_dense.Holistic', weight=0.1, penalty=10.0),
)
discriminator = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=4e-4, betas=(0.9, 0.99)))
