# What recipes are worth for a one-stage detector from an ImageNet backbone: EfficientNet-Lite2 teaches Lite0
# python tools/chain.py configs/chains/aquarium_gfl.py
folder = 'work_dirs/chains/aquarium_gfl'
rows = 'docs/results/aquarium_gfl'
seeds = [0, 1, 2]
side_by_side = 2
# twice the config's schedule: after 800 steps the student alone still gains a point a quarter
_alone = dict(config='configs/aquarium/gfl_lite0_aquarium.py', steps=1600, minutes=35)
_taught = dict(_alone, teacher='{teacher}', minutes=60)
stages = dict(
    teacher=dict(config='configs/aquarium/gfl_lite2_aquarium.py', once=True, seed=0, minutes=35),
    hint=dict(_taught, recipe='hint'),
    ld=dict(_taught, recipe='ld'),
    ld_imitation=dict(_taught, recipe='ld', options={'model.losses.imitation.weight': 2}),
    cwd=dict(_taught, recipe='cwd'),
    pkd=dict(_taught, recipe='pkd'),
    bckd=dict(_taught, recipe='bckd'),
)
compare = dict(alone=_alone)
