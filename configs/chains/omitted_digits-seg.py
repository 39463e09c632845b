# A class that the student is taught without examples (Hinton et al. 2015, section 3): `three` is in no scene that it
# learns from, and is known to it from the teacher's soft targets; before and after its bias of that class is shifted
# python tools/chain.py configs/chains/omitted_digits-seg.py
folder = 'work_dirs/chains/omitted_digits-seg'
rows = 'docs/results/omitted_digits-seg'
seeds = [0, 1, 2]
side_by_side = 2
_scenes = (
    '--size 96 --digits 2 5 --height 28 64 --rotation 10 --slant 0.2 --clutter 0.3 '
    '--distractors 0 3 --stroke 0.2 0.35 --contrast 0.3 0.7'
)
prepare = [
    f'kd-dense make-digits data/digits_seg {_scenes}',
    f'kd-dense make-digits data/digits_seg_without_three --without three {_scenes}',
]
environment = dict(
    DIGITS_SEG_ROOT='data/digits_seg',
    DIGITS_SEG_WITHOUT_THREE_ROOT='data/digits_seg_without_three',
)
metrics = {'mIoU': 'mIoU', 'IoU of three': 'IoU/three', 'shift': 'shift'}
_labels = 'configs/digits/pspnet_r18-quarter_digits-seg-without-three.py'
_taught = dict(
    config='configs/digits/soft_pspnet_r18-quarter_digits-seg-without-three.py',
    teacher='{teacher}',
    stored=1,
)
_each_class = dict(
    custom_imports=dict(imports=['kd_dense.hooks'], allow_failed_imports=False),
    custom_hooks=[dict(type='kd_dense.ClassMetricsHook')],
)
stages = dict(
    teacher=dict(
        title='the teacher, all scenes',
        config='configs/digits/pspnet_r18-half_digits-seg.py',
        options=_each_class,
        once=True,
        minutes=7,
    ),
    student=dict(**_taught, title='soft targets without three: before', minutes=4),
    label_free=dict(
        **_taught,
        title='label-free shift',
        evaluates=['{student}'],
        class_bias=dict(three='auto'),
    ),
    validation=dict(
        **_taught,
        title='shift by validation, an upper bound',
        evaluates=['{student}'],
        class_bias=dict(three='validation'),
    ),
)
compare = dict(
    labels_without=dict(title='labels without three', config=_labels, minutes=3),
    labels_all=dict(
        title='labels, all scenes',
        config=_labels,
        options={'train_dataloader.dataset.data_root': 'data/digits_seg/'},
        minutes=3,
    ),
)
