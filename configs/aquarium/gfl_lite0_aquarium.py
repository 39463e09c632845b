# The student alone, from an ImageNet backbone: EfficientNet-Lite0, a narrow neck and head
# python tools/train.py configs/aquarium/gfl_lite0_aquarium.py
_base_ = [
    '../_base_/datasets/aquarium.py',
    '../_base_/models/gfl_lite0.py',
    '../_base_/schedules/pretrained.py',
]
model = dict(bbox_head=dict(num_classes=7))
