# Born again (Furlanello et al. 2018): generations from fresh starts, each taught by the one before; their ensemble, and
# one student taught by it; on digits, beside the student alone for as many steps as all generations together
# python tools/chain.py configs/chains/born_again_digits.py
folder = 'work_dirs/chains/born_again_digits'
rows = 'docs/results/born_again_digits'
seeds = [0, 1, 2]
side_by_side = 2
prepare = ['kd-dense make-digits data/digits']
environment = dict(DIGITS_ROOT='data/digits')
_alone = 'configs/digits/gfl_r18-quarter_digits.py'
_taught = dict(
    config='configs/digits/ld_gfl_r18-quarter_digits.py',
    options=dict(custom_hooks=[dict(type='kd_dense.StudentCheckpointHook')]),
    stored=1,
    minutes=3,
)
stages = dict(
    gen0=dict(config=_alone, minutes=2),
    gen1=dict(**_taught, teacher='{gen0}', seed=1),
    gen2=dict(**_taught, teacher='{gen1}', seed=2),
    gen3=dict(**_taught, teacher='{gen2}', seed=3),
    ensemble=dict(
        title='ensemble of all generations',
        config=_alone,
        evaluates=['{gen0}', '{gen1}', '{gen2}', '{gen3}'],
    ),
    single=dict(
        title='taught by the ensemble of 1 to 3',
        config=_alone,
        recipe='ld',
        teacher=dict(type='kd_dense.Ensemble', members=dict(a='{gen1}', b='{gen2}', c='{gen3}')),
        stored=1,
        seed=4,
        minutes=4,
    ),
)
compare = dict(
    alone=dict(config=_alone, seed=5, minutes=2),
    longer=dict(title='alone, four times as long', config=_alone, steps=4800, minutes=7),
)
