# A specialist as teacher: knows one, two, three, five, seven, eight, nine alone, which detectors confuse;
# all else is background to it
# (found by: kd-dense specialists configs/digits/gfl_r18-half_digits.py CHECKPOINT)
# python tools/train.py configs/digits/gfl_r18-half_digits-rest.py
_base_ = ['./gfl_r18-half_digits.py']
own = dict(classes=('one', 'two', 'three', 'five', 'seven', 'eight', 'nine'))
model = dict(bbox_head=dict(num_classes=7))
train_dataloader = dict(dataset=dict(metainfo=own, filter_cfg=dict(filter_empty_gt=False)))
val_dataloader = dict(dataset=dict(metainfo=own))
test_dataloader = val_dataloader
