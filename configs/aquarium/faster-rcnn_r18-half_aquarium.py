# The teacher: twice the student's width, from scratch
# python tools/train.py configs/aquarium/faster-rcnn_r18-half_aquarium.py
_base_ = ['./faster-rcnn_r18-quarter_aquarium.py']
model = dict(
    backbone=dict(base_channels=32, stem_channels=32),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=256),
    ),
)
