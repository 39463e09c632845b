# The embedded dataset's label pictures, in scenes that a small segmentor learns within minutes: few pixels, thick
# strokes, less clutter. Build it with:
# python tools/make_digits.py data/digits_seg --size 96 --digits 2 5 --height 28 64 --rotation 10 --slant 0.2 \
#     --clutter 0.3 --distractors 0 3 --stroke 0.2 0.35 --contrast 0.3 0.7
data_root = '{{$DIGITS_SEG_ROOT:data/digits_seg}}/'
data_help = (
    'Build it in seconds by the command on top of configs/_base_/datasets/digits_seg.py '
    '(or name a folder by DIGITS_SEG_ROOT).'
)
metainfo = dict(
    classes=(
        *('background', 'zero', 'one', 'two', 'three', 'four'),
        *('five', 'six', 'seven', 'eight', 'nine'),
    ),
    palette=[
        *([0, 0, 0], [230, 25, 75], [60, 180, 75], [255, 225, 25], [0, 130, 200], [245, 130, 48]),
        *([145, 30, 180], [70, 240, 240], [240, 50, 230], [210, 245, 60], [250, 190, 212]),
    ],
)
data_prefix = dict(img_path='VOC2007/JPEGImages', seg_map_path='VOC2007/SegmentationClass')
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]

train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        metainfo=metainfo,
        ann_file='VOC2007/ImageSets/Segmentation/train.txt',
        data_prefix=data_prefix,
        pipeline=pipeline,
    ),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        metainfo=metainfo,
        ann_file='VOC2007/ImageSets/Segmentation/val.txt',
        data_prefix=data_prefix,
        test_mode=True,
        pipeline=pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
auto_scale_lr = dict(enable=False, base_batch_size=16)
