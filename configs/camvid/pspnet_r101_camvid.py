# The teacher of students on CamVid: no checkpoint of it is published, train it first
# python tools/train.py configs/camvid/pspnet_r101_camvid.py
_base_ = ['./pspnet_r18_camvid.py']
model = dict(
    pretrained='open-mmlab://resnet101_v1c',
    backbone=dict(depth=101),
    decode_head=dict(in_channels=2048, channels=512),
    auxiliary_head=dict(in_channels=1024, channels=256),
)
