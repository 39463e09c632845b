# COCO box AP of the student: 40.1 without a teacher, 42.1 published with localization distillation
# (Zheng et al. 2022); not reproduced by us
# tools/dist_train.sh configs/coco/ld_gfl_r50_coco.py 8
_base_ = ['../ld_r18.py']
model = dict(
    student=dict(
        backbone=dict(
            depth=50, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')
        ),
        neck=dict(in_channels=[256, 512, 1024, 2048]),
    )
)
