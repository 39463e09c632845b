# The seven methods of Morikawa's comparison beside the student alone, on a detector: soft targets, FitNets, a teacher
# assistant, hints and soft targets at every step of the way (multi), and three kinds of merit; on digits
# python tools/chain.py configs/chains/morikawa_digits.py
folder = 'work_dirs/chains/morikawa_digits'
rows = 'docs/results/morikawa_digits'
seeds = [0, 1, 2]
side_by_side = 2
prepare = ['kd-dense make-digits data/digits']
environment = dict(DIGITS_ROOT='data/digits')
_eighth = 'configs/digits/gfl_r18-eighth_digits.py'
_hint = dict(config='configs/digits/fitnets-hint_gfl_r18-quarter_digits.py', minutes=1)
_soft = dict(
    config='configs/digits/fitnets-soft_gfl_r18-quarter_digits.py'
)  # fades from 4/9 to 1/9, T = 3
_whole = dict(_soft, options=dict(load_from=None), steps=1200, minutes=3)
_late = dict(_soft, minutes=2)
_small = dict(student=_eighth)
_merit = dict(config=_eighth, recipe='merit', teacher='{teacher}', minutes=3)
stages = dict(
    teacher=dict(config='configs/digits/gfl_r18-half_digits.py', once=True, minutes=6),
    soft=dict(**_whole, **_small, teacher='{teacher}', title='soft targets'),
    fitnet_hint=dict(**_hint, **_small, teacher='{teacher}', title='FitNets: hints'),
    fitnet=dict(
        **_late,
        **_small,
        teacher='{teacher}',
        options=dict(load_from='{fitnet_hint}'),
        title='FitNets: then soft targets',
    ),
    takd_assistant=dict(**_whole, teacher='{teacher}', title='assistant'),
    takd=dict(**_whole, **_small, teacher='{takd_assistant}', title='taught by the assistant'),
    multi_hint_1=dict(**_hint, teacher='{teacher}', title='multi: hints for the assistant'),
    multi_assistant=dict(
        **_late,
        teacher='{teacher}',
        options=dict(load_from='{multi_hint_1}'),
        title='multi: assistant',
    ),
    multi_hint_2=dict(
        **_hint, **_small, teacher='{multi_assistant}', title='multi: hints by the assistant'
    ),
    multi=dict(
        **_late, **_small, teacher='{multi_assistant}', options=dict(load_from='{multi_hint_2}')
    ),
    merit_delta=dict(_merit, options={'model.losses.merit.kind': 'delta'}, title='merit, delta'),
    merit_hard=dict(_merit, options={'model.losses.merit.kind': 'hard'}, title='merit, hard'),
    merit_soft=dict(_merit, title='merit, soft'),
)
compare = dict(alone=dict(config=_eighth, minutes=2))
