# MGD on the last map of a segmentor's backbone, with channel-wise distillation of its logits, as
# the published numbers have it (Yang et al. 2022).
_base_ = ['./_base_/distill_seg.py']
recipe = dict(instead_of='mgd', families=['segmentation'])
losses = dict(
    mgd=dict(type='kd_dense.MaskedGeneration', stages=(-1,), masked=0.75, weight=2e-5),
    cwd=dict(type='kd_dense.ChannelWise', stages=('logits',), temperature=4, weight=3),
)
