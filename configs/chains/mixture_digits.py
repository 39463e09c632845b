# The classic mixture, (1 - alpha) own + alpha T^2 soft (Hinton et al. 2015), on a detector with sigmoid scores
# by alpha and T
# python tools/chain.py configs/chains/mixture_digits.py
folder = 'work_dirs/chains/mixture_digits'
rows = 'docs/results/mixture_digits'
seeds = [0]
side_by_side = 2
prepare = ['kd-dense make-digits data/digits']
environment = dict(DIGITS_ROOT='data/digits')
_small = 'configs/digits/gfl_r18-eighth_digits.py'
_per_positive = (
    30  # positions by positives in these scenes: the own class loss is divided by the positives
)
stages = dict(teacher=dict(config='configs/digits/gfl_r18-half_digits.py', once=True, minutes=6))
stages.update({
    f'a{str(a).replace(".", "")}_T{T}': dict(
        config='configs/digits/ld_gfl_r18-quarter_digits.py',
        student=_small,
        teacher='{teacher}',
        stored=1,
        options={
            'custom_hooks': [dict(type='kd_dense.StudentCheckpointHook')],
            'model.own_weight': round(1 - a, 1),
            'model.losses': dict(
                _delete_=True,
                soft=dict(
                    type='kd_dense.SoftTargets', temperature=T, weight=round(_per_positive * a, 1)
                ),
                # where the own loss fades boxes have to be learned too
                ld=dict(type='kd_dense.LocalizationDistillation', region='main', weight=a),
            ),
        },
        title=f'alpha {a}, T {T}',
        minutes=3,
    )
    for a in (0.1, 0.5, 0.9, 1.0)
    for T in (1, 2, 4, 20)
})  # fmt: skip
compare = dict(alone=dict(config=_small, title='alone, alpha 0', minutes=2))
