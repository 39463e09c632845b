# Several teachers: a student taught by one who knows all digits, by two specialists, by the mean of three who know all,
# and by one of the three drawn in each step; on digits
# python tools/chain.py configs/chains/several_digits.py
folder = 'work_dirs/chains/several_digits'
rows = 'docs/results/several_digits'
seeds = [0, 1, 2]
side_by_side = 2
prepare = ['kd-dense make-digits data/digits']
environment = dict(DIGITS_ROOT='data/digits')
_alone = 'configs/digits/gfl_r18-quarter_digits.py'
_general = dict(config='configs/digits/gfl_r18-half_digits.py', once=True, minutes=6)
_special = 'configs/digits/gfl_r18-half_digits-{}.py'
_student = dict(config='configs/digits/specialists_gfl_r18-quarter_digits.py', minutes=4)


def _members(pick):
    """Options that let three teachers be one, for both losses that look at who knows all."""
    named = dict(a='{teacher}', b='{second}', c='{third}')
    config = 'configs/digits/gfl_r18-half_digits.py'
    members = {name: dict(config=config, checkpoint=path) for name, path in named.items()}
    ensemble = dict(type='kd_dense.Ensemble', members=members, pick=pick)
    return {'model.teachers': dict(_delete_=True, all=ensemble), **_ONE_LOSS}


# soft targets of one who knows all, in the place of the specialists'
_ONE_LOSS = {
    'model.losses': dict(
        _delete_=True,
        ld=dict(type='kd_dense.LocalizationDistillation', region='main', weight=0.25),
        cls=dict(
            type='kd_dense.SoftTargets',
            region='main',
            activation='sigmoid',
            temperature=2,
            weight=5,
        ),
    )
}
stages = dict(
    teacher=_general,
    second=dict(_general, options={'randomness.seed': 1}),
    third=dict(_general, options={'randomness.seed': 2}),
    round=dict(_general, config=_special.format('round'), title='specialist for 0, 4, 6'),
    rest=dict(_general, config=_special.format('rest'), title='specialist for the others'),
    one=dict(
        _student,
        title='by one teacher',
        options={
            'model.teachers': dict(
                _delete_=True, all=dict(config=_general['config'], checkpoint='{teacher}')
            ),
            **_ONE_LOSS,
        },
    ),
    specialists=dict(
        _student,
        title='by specialists',
        options={
            f'model.teachers.{name}.checkpoint': f'{{{stage}}}'
            for name, stage in dict(all='teacher', round='round', rest='rest').items()
        },
        minutes=8,
    ),
    mean=dict(_student, title='by the mean of three', options=_members('all'), minutes=8),
    drawn=dict(_student, title='by one of three in each step', options=_members('random')),
)
compare = dict(alone=dict(config=_alone, minutes=3))
