# Students without a finished teacher: mutual learning, branches with a gate, exits, their own average, wider networks;
# beside the student alone for as many steps and for twice as many, and each method without its distillation; on digits
# python tools/chain.py configs/chains/live_digits.py
folder = 'work_dirs/chains/live_digits'
rows = 'docs/results/live_digits'
seeds = [0, 1, 2]
side_by_side = 2
prepare = ['kd-dense make-digits data/digits']
environment = dict(DIGITS_ROOT='data/digits')
_alone = 'configs/digits/gfl_r18-quarter_digits.py'
_eighth = 'configs/digits/gfl_r18-eighth_digits.py'
_mutual = dict(config='configs/digits/mutual_gfl_r18-quarter_digits.py', minutes=8)
_one = dict(config='configs/digits/one_gfl_r18-quarter_digits.py', minutes=10)
_exits = dict(config='configs/digits/exits_gfl_r18-quarter_digits.py', minutes=5)
_names = ['student', 'b', 'c']
_half = dict(
    backbone=dict(base_channels=32, stem_channels=32),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64),
    bbox_head=dict(in_channels=64, feat_channels=64),
)
stages = dict(
    mutual=dict(_mutual, title='mutual, two equal students'),
    mutual_half=dict(
        _mutual,
        options={'model.peers.b.changes': _half},
        title='mutual, with a student of half width',
        minutes=12,
    ),
    one=dict(_one, title='three branches and a gate'),
    branches=dict(
        _one,
        options={
            'model.teachers.all.task_weight': 0,
            **{f'model.losses.{k}_{n}.weight': 0 for k in ('cls', 'box') for n in _names},
        },
        title='three branches, not distilled',
    ),
    exits=dict(_exits, title='an exit that learns from the deepest'),
    supervised=dict(
        _exits,
        options={f'model.losses.{name}.weight': 0 for name in ('cls', 'box', 'hint')},
        title='the same exit, not distilled',
    ),
    mean_teacher=dict(
        config='configs/digits/mean-teacher_gfl_r18-quarter_digits.py',
        title='its own average',
        minutes=5,
    ),
    netaug=dict(
        config='configs/digits/netaug_gfl_r18-eighth_digits.py',
        title='an eighth of the width, in wider networks',
        minutes=6,
    ),
)
compare = dict(
    alone=dict(config=_alone, minutes=3),
    longer=dict(config=_alone, steps=2400, title='alone, twice as long', minutes=6),
    eighth=dict(config=_eighth, title='an eighth of the width, alone', minutes=2),
    eighth_longer=dict(config=_eighth, steps=2400, title='the same, twice as long', minutes=4),
)
