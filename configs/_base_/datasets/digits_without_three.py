# The embedded dataset for a class that is taught without examples: no `three` to train on, all digits to evaluate on.
# Build both with: python tools/make_digits.py data/digits
# python tools/make_digits.py data/digits_without_three --without three
_base_ = ['./digits.py']
data_help = (
    'Build it in seconds by the two commands on top of configs/_base_/datasets/digits_without_three.py '
    '(or name folders by DIGITS_ROOT and DIGITS_WITHOUT_THREE_ROOT).'
)
train_dataloader = dict(
    dataset=dict(data_root='{{$DIGITS_WITHOUT_THREE_ROOT:data/digits_without_three}}/')
)
val_evaluator = dict(classwise=True)
test_evaluator = dict(classwise=True)
