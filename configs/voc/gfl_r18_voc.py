# The student alone. VOC AP (0.5 to 0.95): 51.8 published (Zheng et al. 2022); not reproduced by us
# tools/dist_train.sh configs/voc/gfl_r18_voc.py 8
_base_ = [
    '../_base_/models/gfl_r18_voc.py',
    '../_base_/datasets/voc.py',
    '../_base_/schedules/voc.py',
]
