# A class that a detector is taught without examples (after Hinton et al. 2015, section 3): `three` is in no scene that
# it learns from, and is known to it from the teacher; before and after its bias of that class is shifted. AP ranks
# within a class and cannot see the shift; which class is scored highest at the annotated boxes can
# python tools/chain.py configs/chains/omitted_digits.py
folder = 'work_dirs/chains/omitted_digits'
rows = 'docs/results/omitted_digits'
seeds = [0, 1, 2]
side_by_side = 2
prepare = [
    'kd-dense make-digits data/digits',
    'kd-dense make-digits data/digits_without_three --without three',
]
environment = dict(DIGITS_ROOT='data/digits', DIGITS_WITHOUT_THREE_ROOT='data/digits_without_three')
metrics = {
    'AP': 'coco/bbox_mAP',
    'AP of three': 'coco/three_precision',
    'right class, three': 'box_acc/three',
    'right class, all': 'box_acc/all',
    'shift': 'shift',
}
_labels = 'configs/digits/gfl_r18-quarter_digits-without-three.py'
_taught = dict(
    config='configs/digits/soft-ld_gfl_r18-quarter_digits-without-three.py',
    teacher='{teacher}',
    stored=1,
)
_each_class = {
    'custom_imports': dict(imports=['kd_dense.hooks'], allow_failed_imports=False),
    'custom_hooks': [dict(type='kd_dense.ClassMetricsHook')],
    'val_evaluator.classwise': True,
    'test_evaluator.classwise': True,
    'model.test_cfg': dict(nms_pre=1000, score_thr=0.001, max_per_img=100),
}
_plain = {'model.losses.soft.temperature': 1, 'model.losses.soft.weight': 50}
stages = dict(
    teacher=dict(
        title='the teacher, all scenes',
        config='configs/digits/gfl_r18-half_digits.py',
        options=_each_class,
        once=True,
        minutes=6,
    ),
    student=dict(**_taught, title='soft targets without three: before', minutes=3),
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
    # at T = 1 the training itself brings the mean to the teacher's: no label-free shift is left
    student_t1=dict(**_taught, title='T = 1: before', options=_plain, minutes=3),
    validation_t1=dict(
        **_taught,
        title='T = 1: shift by validation, an upper bound',
        options=_plain,
        evaluates=['{student_t1}'],
        class_bias=dict(three='validation'),
    ),
)
compare = dict(
    labels_without=dict(title='labels without three', config=_labels, minutes=2),
    labels_all=dict(
        title='labels, all scenes',
        config=_labels,
        options={'train_dataloader.dataset.data_root': 'data/digits/'},
        minutes=2,
    ),
)
