# What recipes are worth for a two-stage detector from an ImageNet backbone: EfficientNet-Lite2 teaches Lite0
# python tools/chain.py configs/chains/aquarium_faster-rcnn.py
folder = 'work_dirs/chains/aquarium_faster-rcnn'
rows = 'docs/results/aquarium_faster-rcnn'
seeds = [0, 1, 2]
side_by_side = 2
_alone = dict(config='configs/aquarium/faster-rcnn_lite0_aquarium.py', steps=1600)
_taught = dict(_alone, teacher='{teacher}')
_chen = dict(_taught, recipe='chen2017')
_no_hint = {'model.losses.hint.weight': 0}
_no_classes = {'model.losses.rpn_cls.weight': 0, 'model.losses.roi_cls.weight': 0}
_no_boxes = {'model.losses.rpn_reg.weight': 0, 'model.losses.roi_reg.weight': 0}
stages = dict(
    teacher=dict(config='configs/aquarium/faster-rcnn_lite2_aquarium.py', once=True, seed=0),
    hint=dict(_taught, recipe='hint'),
    chen2017=_chen,
    chen2017_classes=dict(_chen, options={**_no_hint, **_no_boxes}),
    chen2017_boxes=dict(_chen, options={**_no_hint, **_no_classes}),
    dist=dict(_taught, recipe='dist'),
    dkd=dict(_taught, recipe='dkd'),
)
compare = dict(alone=_alone)
