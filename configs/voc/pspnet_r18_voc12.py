# The student alone, VOC 2012 with its augmented labels: 40k iterations of 512x512 crops, 4 GPUs x 4 images;
# not measured by us
# tools/dist_train.sh configs/voc/pspnet_r18_voc12.py 4
_base_ = ['mmseg::pspnet/pspnet_r50-d8_4xb4-40k_voc12aug-512x512.py']
data_root = '{{$VOC_ROOT:data/VOCdevkit}}/VOC2012/'
data_help = (
    'Download VOC 2012 (trainval) into data/VOCdevkit and make SegmentationClassAug and aug.txt by '
    'tools/dataset_converters/voc_aug.py of mmseg (or name a folder by VOC_ROOT).'
)
model = dict(
    pretrained='open-mmlab://resnet18_v1c',
    backbone=dict(depth=18),
    decode_head=dict(in_channels=512, channels=128),
    auxiliary_head=dict(in_channels=256, channels=64),
)
train_dataloader = dict(
    dataset=dict(
        datasets=[
            dict(
                type='PascalVOCDataset',
                data_root=data_root,
                data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
                ann_file='ImageSets/Segmentation/train.txt',
                pipeline={{_base_.train_pipeline}},
            ),
            dict(
                type='PascalVOCDataset',
                data_root=data_root,
                data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClassAug'),
                ann_file='ImageSets/Segmentation/aug.txt',
                pipeline={{_base_.train_pipeline}},
            ),
        ]
    )
)
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
auto_scale_lr = dict(enable=False, base_batch_size=16)
