# VOC AP (0.5 to 0.95): 51.8 published (Zheng et al. 2022); not reproduced by us
# tools/dist_train.sh configs/gfl_r18_voc.py 8
_base_ = ['./_base_/gfl_r18_voc.py']
