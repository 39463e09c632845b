# Channel-wise distillation of a segmentor's logits (Shu et al. 2021).
_base_ = ['./_base_/distill_seg.py']
recipe = dict(preferred={'segmentation': 1})
losses = dict(cwd=dict(type='kd_dense.ChannelWise', stages=('logits',), temperature=4, weight=3))
