# Labels on a tenth and on a quarter of the training images, the rest shown to the teacher alone, on Aquarium
# python tools/chain.py configs/chains/unlabelled_aquarium.py
# The teacher was trained with all labels: it is what a student is given that has few of them.
folder = 'work_dirs/chains/unlabelled_aquarium'
rows = 'docs/results/unlabelled_aquarium'
seeds = [0, 1, 2]
side_by_side = 2
_images = 448  # for training
_few = {
    name: {'train_dataloader.dataset.indices': list(range(0, _images, every))}
    for name, every in (('tenth', 10), ('quarter', 4))
}
_alone = dict(config='configs/aquarium/gfl_lite0_aquarium.py', steps=1600)
_taught = dict(_alone, teacher='{teacher}', recipe='pkd')
stages = dict(
    teacher=dict(config='configs/aquarium/gfl_lite2_aquarium.py', once=True, seed=0),
    tenth=dict(_taught, options=_few['tenth'], title='a tenth, distilled'),
    tenth_unlabelled=dict(
        _taught,
        options=_few['tenth'],
        unlabelled='rest',
        title='a tenth, distilled, and the rest without labels',
    ),
    quarter=dict(_taught, options=_few['quarter'], title='a quarter, distilled'),
    quarter_unlabelled=dict(
        _taught,
        options=_few['quarter'],
        unlabelled='rest',
        title='a quarter, distilled, and the rest without labels',
    ),
)
compare = dict(
    alone_tenth=dict(_alone, options=_few['tenth'], title='a tenth, labels alone'),
    alone_quarter=dict(_alone, options=_few['quarter'], title='a quarter, labels alone'),
)
