# What recipes are worth for a small segmentor from scratch under a teacher from an ImageNet backbone, on CamVid
# python tools/chain.py configs/chains/camvid_pspnet.py
folder = 'work_dirs/chains/camvid_pspnet'
rows = 'docs/results/camvid_pspnet'
seeds = [0, 1, 2]
side_by_side = 2
_alone = dict(
    config='configs/camvid/pspnet_r18-quarter_camvid.py',
    steps=2400,
    options={'train_cfg.val_interval': 150},
)
_taught = dict(_alone, teacher='{teacher}')
stages = dict(
    teacher=dict(config='configs/camvid/fpn_lite2_camvid.py', once=True, seed=0),
    pixel=dict(
        _taught,
        recipe='structured',
        options={
            **_alone['options'],
            'model.losses.pair.weight': 0,
            'model.losses.holistic.weight': 0,
        },
    ),
    structured_no_critic=dict(
        _taught,
        recipe='structured',
        options={**_alone['options'], 'model.losses.holistic.weight': 0},
    ),
    structured=dict(_taught, recipe='structured'),
    cwd=dict(_taught, recipe='cwd'),
    dist=dict(_taught, recipe='dist'),
)
compare = dict(alone=_alone)
