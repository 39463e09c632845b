# The classic mixture, (1 - alpha) own + alpha T^2 soft (Hinton et al. 2015), on a segmentor
# by alpha and T
# python tools/chain.py configs/chains/mixture_digits-seg.py
folder = 'work_dirs/chains/mixture_digits-seg'
rows = 'docs/results/mixture_digits-seg'
seeds = [0]
side_by_side = 2
prepare = [
    'kd-dense make-digits data/digits_seg --size 96 --digits 2 5 --height 28 64 --rotation 10 --slant 0.2 '
    '--clutter 0.3 --distractors 0 3 --stroke 0.2 0.35 --contrast 0.3 0.7'
]
environment = dict(DIGITS_SEG_ROOT='data/digits_seg')
_small = 'configs/digits/pspnet_r18-eighth_digits-seg.py'
stages = dict(
    teacher=dict(config='configs/digits/pspnet_r18-half_digits-seg.py', once=True, minutes=6)
)
stages.update({
    f'a{str(a).replace(".", "")}_T{T}': dict(
        config='configs/digits/pixel_pspnet_r18-quarter_digits-seg.py',
        student=_small,
        teacher='{teacher}',
        stored=1,
        options={
            'custom_hooks': [
                dict(type='kd_dense.StudentCheckpointHook'),
                dict(type='kd_dense.RandomStateHook'),
            ],
            'model.own_weight': round(1 - a, 1),
            'model.losses.pixel.temperature': T,
            'model.losses.pixel.weight': a,
        },
        title=f'alpha {a}, T {T}',
        minutes=3,
    )
    for a in (0.1, 0.5, 0.9, 1.0)
    for T in (1, 2, 4, 20)
})  # fmt: skip
compare = dict(alone=dict(config=_small, title='alone, alpha 0', minutes=2))
