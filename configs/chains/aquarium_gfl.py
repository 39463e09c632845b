# What recipes are worth for a one-stage detector from an ImageNet backbone: EfficientNet-Lite2 teaches Lite0
# python tools/chain.py configs/chains/aquarium_gfl.py
folder = 'work_dirs/chains/aquarium_gfl'
rows = 'docs/results/aquarium_gfl'
seeds = [0, 1, 2]
_alone = dict(config='configs/aquarium/gfl_lite0_aquarium.py')
_taught = dict(**_alone, teacher='{teacher}')
stages = dict(
    teacher=dict(config='configs/aquarium/gfl_lite2_aquarium.py', once=True),
    hint=dict(**_taught, recipe='hint'),
    ld=dict(**_taught, recipe='ld'),
    ld_imitation=dict(**_taught, recipe='ld', options={'model.losses.imitation.weight': 2}),
    cwd=dict(**_taught, recipe='cwd'),
    pkd=dict(**_taught, recipe='pkd'),
    bckd=dict(**_taught, recipe='bckd'),
)
compare = dict(alone=_alone)
