# The seven methods of Morikawa's comparison beside the student alone, on a segmentor, whose softmax has the exact
# mixtures; and what merit is worth under teachers whose labels had threes and eights exchanged, of some and of all
# python tools/chain.py configs/chains/morikawa_digits-seg.py
folder = 'work_dirs/chains/morikawa_digits-seg'
rows = 'docs/results/morikawa_digits-seg'
seeds = [0, 1, 2]
side_by_side = 2
_scenes = (
    '--size 96 --digits 2 5 --height 28 64 --rotation 10 --slant 0.2 --clutter 0.3 --distractors 0 3 '
    '--stroke 0.2 0.35 --contrast 0.3 0.7'
)
prepare = [
    f'kd-dense make-digits data/digits_seg {_scenes}',
    f'kd-dense make-digits data/digits_seg_confused {_scenes} --confuse three eight --confused 0.3',
    f'kd-dense make-digits data/digits_seg_swapped {_scenes} --confuse three eight --confused 1',
]
environment = dict(DIGITS_SEG_ROOT='data/digits_seg')
_eighth = 'configs/digits/pspnet_r18-eighth_digits-seg.py'
_hint = dict(config='configs/digits/fitnets-hint_pspnet_r18-quarter_digits-seg.py', minutes=1)
_soft = dict(  # fades from 4/9 to 1/9, T = 3
    config='configs/digits/fitnets-soft_pspnet_r18-quarter_digits-seg.py', stored=1
)
_whole = dict(_soft, options=dict(load_from=None), steps=800, minutes=3)
_late = dict(_soft, minutes=2)
_small = dict(student=_eighth)
_merit = dict(config=_eighth, recipe='merit', stored=1, minutes=3)
_delta = {'options': {'model.losses.merit.kind': 'delta'}}
_hard = {'options': {'model.losses.merit.kind': 'hard'}}
_teacher = dict(config='configs/digits/pspnet_r18-half_digits-seg.py', once=True, minutes=6)
_root = 'train_dataloader.dataset.data_root'
stages = dict(
    teacher=_teacher,
    confused_teacher=dict(
        _teacher, options={_root: 'data/digits_seg_confused/'}, title='teacher, 30 % exchanged'
    ),
    swapped_teacher=dict(
        _teacher, options={_root: 'data/digits_seg_swapped/'}, title='teacher, all exchanged'
    ),
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
    merit_delta=dict(**_merit, **_delta, teacher='{teacher}', title='merit, delta'),
    merit_hard=dict(**_merit, **_hard, teacher='{teacher}', title='merit, hard'),
    merit_soft=dict(**_merit, teacher='{teacher}', title='merit, soft'),
    confused_soft=dict(
        **_whole, **_small, teacher='{confused_teacher}', title='30 %: soft targets'
    ),
    confused_delta=dict(
        **_merit, **_delta, teacher='{confused_teacher}', title='30 %: merit, delta'
    ),
    confused_hard=dict(**_merit, **_hard, teacher='{confused_teacher}', title='30 %: merit, hard'),
    confused_merit=dict(**_merit, teacher='{confused_teacher}', title='30 %: merit, soft'),
    swapped_soft=dict(**_whole, **_small, teacher='{swapped_teacher}', title='all: soft targets'),
    swapped_delta=dict(**_merit, **_delta, teacher='{swapped_teacher}', title='all: merit, delta'),
    swapped_hard=dict(**_merit, **_hard, teacher='{swapped_teacher}', title='all: merit, hard'),
    swapped_merit=dict(**_merit, teacher='{swapped_teacher}', title='all: merit, soft'),
)
compare = dict(alone=dict(config=_eighth, minutes=2))
