# What the teacher's masks are worth to a Mask R-CNN: alone, beside the losses of Chen et al. 2017, and none of them
# python tools/chain.py configs/chains/masks_digits.py
folder = 'work_dirs/chains/masks_digits'
rows = 'docs/results/masks_digits'
seeds = [0, 1, 2]
side_by_side = 2
prepare = ['kd-dense make-digits data/digits']
environment = dict(DIGITS_ROOT='data/digits')
metrics = {
    'AP': 'coco/bbox_mAP',
    'mask AP': 'coco/segm_mAP',
    'mask AP75': 'coco/segm_mAP_75',
}
_taught = dict(
    config='configs/digits/chen2017-masks_mask-rcnn_r18-quarter_digits.py', teacher='{teacher}'
)
_without = {
    f'model.losses.{name}.weight': 0
    for name in ('hint', 'rpn_cls', 'roi_cls', 'rpn_reg', 'roi_reg')
}
stages = dict(
    teacher=dict(
        title='the teacher',
        config='configs/digits/mask-rcnn_r18-half_digits.py',
        once=True,
        minutes=10,
    ),
    masks=dict(_taught, title='masks alone', options=_without, minutes=6),
    boxes=dict(
        _taught, title='Chen 2017 without masks', options={'model.losses.mask.weight': 0}, minutes=6
    ),
    whole=dict(_taught, title='Chen 2017 and masks', minutes=6),
)
compare = dict(
    alone=dict(
        title='the student alone',
        config='configs/digits/mask-rcnn_r18-quarter_digits.py',
        minutes=4,
    )
)
