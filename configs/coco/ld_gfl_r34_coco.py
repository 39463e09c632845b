# COCO box AP of the student: 38.9 without a teacher, 41.0 published with localization distillation
# (Zheng et al. 2022); not reproduced by us
# tools/dist_train.sh configs/coco/ld_gfl_r34_coco.py 8
_base_ = ['../ld_r18.py']
model = dict(
    student=dict(
        backbone=dict(
            depth=34, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet34')
        )
    )
)
