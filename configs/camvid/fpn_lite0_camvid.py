# The student alone, on CamVid at half its size: a Semantic FPN on EfficientNet-Lite0 from ImageNet
# python tools/train.py configs/camvid/fpn_lite0_camvid.py
_base_ = [
    '../_base_/datasets/camvid_small.py',
    '../_base_/models/fpn_lite0.py',
    '../_base_/schedules/pretrained_seg.py',
]
