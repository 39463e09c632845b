# Label pictures for a class that is taught without examples: no `three` to train on, all digits to evaluate on.
# Build both with the command on top of digits_seg.py, and:
# python tools/make_digits.py data/digits_seg_without_three --without three --size 96 --digits 2 5 --height 28 64 \
#     --rotation 10 --slant 0.2 --clutter 0.3 --distractors 0 3 --stroke 0.2 0.35 --contrast 0.3 0.7
_base_ = ['./digits_seg.py']
data_help = (
    'Build it in seconds by the two commands on top of configs/_base_/datasets/digits_seg_without_three.py '
    '(or name folders by DIGITS_SEG_ROOT and DIGITS_SEG_WITHOUT_THREE_ROOT).'
)
train_dataloader = dict(
    dataset=dict(data_root='{{$DIGITS_SEG_WITHOUT_THREE_ROOT:data/digits_seg_without_three}}/')
)
