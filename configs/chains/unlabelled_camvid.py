# Labels on a tenth and on a quarter of the training images, the rest shown to the teacher alone, on CamVid
# python tools/chain.py configs/chains/unlabelled_camvid.py
# The teacher was trained with all labels: it is what a student is given that has few of them. Frames follow each other
# in videos, so every tenth one is like those beside it.
folder = 'work_dirs/chains/unlabelled_camvid'
rows = 'docs/results/unlabelled_camvid'
seeds = [0, 1, 2]
side_by_side = 2
_frames = dict(train=367, val=101)  # both are trained on, in this order
_few = {
    name: {
        f'train_dataloader.dataset.datasets.{part}.indices': list(range(0, count, every))
        for part, count in enumerate(_frames.values())
    }
    | {'train_cfg.val_interval': 150}
    for name, every in (('tenth', 10), ('quarter', 4))
}
_alone = dict(config='configs/camvid/pspnet_r18-quarter_camvid.py', steps=2400)
_taught = dict(_alone, teacher='{teacher}', recipe='cwd')
stages = dict(
    teacher=dict(config='configs/camvid/fpn_lite2_camvid.py', once=True, seed=0),
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
