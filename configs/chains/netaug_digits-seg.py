# Why a tiny network is augmented and not regularised: cut-outs with a policy of colours, and dropout, on a segmentor of
# an eighth of the width and on one of half the width, each also inside wider networks (NetAug); on digits
# python tools/chain.py configs/chains/netaug_digits-seg.py
folder = 'work_dirs/chains/netaug_digits-seg'
rows = 'docs/results/netaug_digits-seg'
seeds = [0, 1, 2]
side_by_side = 2
prepare = [
    'kd-dense make-digits data/digits_seg --size 96 --digits 2 5 --height 28 64 --rotation 10 --slant 0.2 '
    '--clutter 0.3 --distractors 0 3 --stroke 0.2 0.35 --contrast 0.3 0.7'
]
environment = dict(DIGITS_SEG_ROOT='data/digits_seg')
_tiny = 'configs/digits/pspnet_r18-eighth_digits-seg.py'
_large = 'configs/digits/pspnet_r18-half_digits-seg.py'
_wide = 'configs/digits/netaug_pspnet_r18-eighth_digits-seg.py'
_augmented = {
    'train_dataloader.dataset.pipeline': [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        dict(
            type='RandomCutOut',
            prob=0.5,
            n_holes=(1, 3),
            cutout_shape=[(8, 8), (16, 16), (24, 24)],
            seg_fill_in=255,
        ),
        dict(type='PhotoMetricDistortion'),
        dict(type='PackSegInputs'),
    ]
}


def _dropout(*models):
    """Drop half of what the heads' classifiers read, of these parts of the config."""
    heads = ('decode_head', 'auxiliary_head')
    return {f'{model}.{head}.dropout_ratio': 0.5 for model in models for head in heads}


_both = ('model.student', 'model.peers.wide.model')
_tall = {
    f'{model}.{part}': channels
    for model in _both
    for part, channels in {
        'backbone.base_channels': 32,
        'backbone.stem_channels': 32,
        'decode_head.in_channels': 256,
        'decode_head.channels': 64,
        'auxiliary_head.in_channels': 128,
        'auxiliary_head.channels': 32,
    }.items()
}
_tall['model.peers.wide.pieces'] = {'decode_head.bottleneck.conv': (256, 64, 64, 64, 64)}
stages = dict(
    tiny_augmented=dict(config=_tiny, options=_augmented, title='tiny, augmented images'),
    tiny_dropout=dict(config=_tiny, options=_dropout('model'), title='tiny, dropout'),
    tiny_netaug=dict(config=_wide, title='tiny, NetAug', minutes=6),
    tiny_netaug_augmented=dict(
        config=_wide, options=_augmented, title='tiny, NetAug and augmented images', minutes=6
    ),
    tiny_netaug_dropout=dict(
        config=_wide, options=_dropout(*_both), title='tiny, NetAug and dropout', minutes=6
    ),
    large=dict(config=_large, steps=800, minutes=6, title='large'),
    large_augmented=dict(
        config=_large, steps=800, options=_augmented, minutes=6, title='large, augmented images'
    ),
    large_dropout=dict(
        config=_large, steps=800, options=_dropout('model'), minutes=6, title='large, dropout'
    ),
    large_netaug=dict(config=_wide, options=_tall, minutes=25, title='large, NetAug'),
)
compare = dict(
    tiny=dict(config=_tiny, title='tiny', minutes=2),
    longer=dict(config=_tiny, steps=2400, title='tiny, three times as long', minutes=6),
)
