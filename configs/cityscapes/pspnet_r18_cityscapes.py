# The student alone: 80k iterations of 512x1024 crops, 4 GPUs x 2 images. Cityscapes mIoU: 74.87 published by
# mmseg; not reproduced by us
# tools/dist_train.sh configs/cityscapes/pspnet_r18_cityscapes.py 4
_base_ = ['mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py']
data_root = '{{$CITYSCAPES_ROOT:data/cityscapes}}/'
data_help = (
    'Download leftImg8bit and gtFine from cityscapes-dataset.com into data/cityscapes and make the '
    '*_labelTrainIds.png as docs of mmseg say (or name a folder by CITYSCAPES_ROOT).'
)
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
auto_scale_lr = dict(enable=False, base_batch_size=8)
