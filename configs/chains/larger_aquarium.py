# A teacher that sees images twice as large as the student's, against one of the student's own size, on Aquarium
# python tools/chain.py configs/chains/larger_aquarium.py
folder = 'work_dirs/chains/larger_aquarium'
rows = 'docs/results/larger_aquarium'
seeds = [0, 1, 2]
side_by_side = 2
_at = {
    size: {
        'train_dataloader.dataset.pipeline.RandomResize.scale': [
            (size * 4 // 5, size * 4 // 5),
            (size * 13 // 10, size * 13 // 10),
        ],
        'train_dataloader.dataset.pipeline.RandomCrop.crop_size': (size, size),
        'val_dataloader.dataset.pipeline.Resize.scale': (size, size),
    }
    for size in (192, 384)
}
_teacher = dict(config='configs/aquarium/gfl_lite2_aquarium.py', once=True, seed=0)
_alone = dict(config='configs/aquarium/gfl_lite0_aquarium.py', steps=1600, options=_at[192])
_twice = dict(_at[192], **{'model.teacher.scale': 2})
stages = dict(
    teacher_192=dict(_teacher, options=_at[192]),
    teacher_384=dict(_teacher, options=_at[384]),
    own_size=dict(_alone, recipe='ld', teacher='{teacher_192}', title='a teacher of its size'),
    larger=dict(
        _alone,
        recipe='ld',
        teacher='{teacher_384}',
        options=_twice,
        title='a teacher of twice the size, scale=2',
    ),
    not_enlarged=dict(
        _alone, recipe='ld', teacher='{teacher_384}', title='the same teacher, scale=1'
    ),
)
compare = dict(alone=_alone)
