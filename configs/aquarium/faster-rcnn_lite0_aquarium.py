# The student alone, from an ImageNet backbone: EfficientNet-Lite0, a narrow neck and heads
# python tools/train.py configs/aquarium/faster-rcnn_lite0_aquarium.py
_base_ = [
    '../_base_/datasets/aquarium.py',
    '../_base_/models/faster_rcnn_lite0.py',
    '../_base_/schedules/pretrained.py',
]
model = dict(
    rpn_head=dict(anchor_generator=dict(scales=[4])),
    roi_head=dict(bbox_roi_extractor=dict(finest_scale=56), bbox_head=dict(num_classes=7)),
)
