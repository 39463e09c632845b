# The student alone: 160k iterations of 512x512 crops, 8 GPUs x 2 images. ADE20K mIoU: 37.41 published by mmseg;
# not reproduced by us
# tools/dist_train.sh configs/ade20k/segformer_b0_ade20k.py 8
_base_ = ['mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py']
data_root = '{{$ADE_ROOT:data/ade/ADEChallengeData2016}}/'
data_help = (
    'Download ADEChallengeData2016 from data.csail.mit.edu/places/ADEchallenge into data/ade '
    '(or name its folder by ADE_ROOT).'
)
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
auto_scale_lr = dict(enable=False, base_batch_size=16)
