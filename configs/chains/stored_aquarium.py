# How many stored views of each image a detector needs: 1, 2 and 4 against a teacher that runs, on Aquarium
# python tools/chain.py configs/chains/stored_aquarium.py
# Losses on logits: levels of features would take a megabyte of each view.
folder = 'work_dirs/chains/stored_aquarium'
rows = 'docs/results/stored_aquarium'
seeds = [0, 1, 2]
side_by_side = 2
_taught = dict(
    config='configs/aquarium/ld_gfl_r18-quarter_aquarium.py',
    teacher='{teacher}',
    options={'model.losses.imitation.weight': 0},
)
stages = dict(
    teacher=dict(config='configs/aquarium/gfl_r18-half_aquarium.py', once=True, seed=0),
    views_1=dict(_taught, stored=1, title='1 stored view of each image'),
    views_2=dict(_taught, stored=2, title='2 stored views'),
    views_4=dict(_taught, stored=4, title='4 stored views'),
)
compare = dict(
    alone=dict(config='configs/aquarium/gfl_r18-quarter_aquarium.py'),
    live=dict(_taught, title='the teacher runs'),
)
