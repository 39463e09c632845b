# Merit-based distillation of segmentors: the teacher counts where it is right (Morikawa 2023).
_base_ = ['./_base_/distill_seg.py']
losses = dict(merit=dict(type='kd_dense.MeritBased', kind='soft', part='decode', temperature=1))
