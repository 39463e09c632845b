"""The distillation losses on the validation set: what is logged, and that nothing else changes."""

import copy
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from kd_dense.errors import SetupError
from kd_dense.hooks import ValidationLossHook
from kd_dense.hooks.validation_loss import measure_validation
from kd_dense.logs import curve, read_scalars, validations
from kd_dense.report.progress import training as report_curves
from tests.helpers.models import distiller, gfl
from tests.helpers.processes import in_ranks
from tests.helpers.trainings import assert_same, base_config

HOOK = dict(type='kd_dense.ValidationLossHook', interval=2)
HINT = dict(hint=dict(type='kd_dense.FeatureImitation', region='all', weight=0.5))
NO_SAVING = dict(checkpoint=dict(type='CheckpointHook', interval=-1, save_last=False))
NEVER = dict(type='IterBasedTrainLoop', max_iters=4, val_begin=10**9)
KEY = 'val/loss_kd_hint'


def hint_stage(losses=HINT) -> dict:
    """A distiller that trains by a hint alone, below the head."""
    return distiller(
        student=gfl(num_classes=10),
        teacher=dict(config=gfl(channels=32, num_classes=10), untrained=True),
        own_loss=False,
        trains=('backbone', 'neck'),
        losses=losses,
    )


class Watch(Hook):
    """Keeps a state of a training after each step: weights, statistics, modes, random numbers."""

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.seen = []

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        self.seen.append(
            dict(
                weights=copy.deepcopy(runner.model.state_dict()),
                modes=[module.training for module in runner.model.modules()],
                random=torch.get_rng_state(),
                teacher=runner.model.teacher.model.training,
                optimizer=copy.deepcopy(runner.optim_wrapper.state_dict()),
            )
        )


def slow_mean(runner: Runner) -> float:
    """The weighted hint on the validation set, position by position, image by image."""
    model = runner.model.eval()
    total, images = 0.0, 0
    for batch in runner.val_dataloader:
        data = model.data_preprocessor(batch, False)
        ours = model.student.extract_feat(data['inputs'])
        theirs = model.teacher.model.extract_feat(data['inputs'])
        squares, count = 0.0, 0
        for level, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            mapped = model.losses['hint'].adapters[level](a)
            for image, sample in enumerate(data['data_samples']):
                stride = data['inputs'].shape[-1] / a.shape[-1]
                height, width = (-(-size // int(stride)) for size in sample.img_shape[:2])
                valid = (slice(None), slice(0, height), slice(0, width))
                squares += float((mapped[image][valid] - b[image][valid]).square().sum())
                count += mapped[image][valid].numel()
        total += 0.5 * squares / count * len(data['inputs'])
        images += len(data['inputs'])
    return total / images


@pytest.mark.parametrize('fast', [True, False])
def test_the_value_is_the_mean_over_the_images(training, fast):
    model = hint_stage()
    model['teacher']['fast'] = fast
    runner = training(validate=True, model=model)
    runner.load_or_resume()
    runner.model.load_teacher()
    with torch.no_grad():
        expected = slow_mean(runner)
    measured = measure_validation(runner)
    assert list(measured) == ['hint'] and measured['hint'] > 0
    assert measured['hint'] == pytest.approx(expected, rel=1e-4)


def test_a_training_with_it_is_the_one_without_to_the_bit(training):
    seen = []
    for hooks in ([], [HOOK]):
        watch = Watch()
        training(
            validate=True,
            model=hint_stage(),
            hooks=[watch],
            custom_hooks=hooks,
            default_hooks=NO_SAVING,
        ).train()
        seen.append(watch.seen)
    assert len(seen[0]) == 4 and seen[0][0]['weights'].keys() >= {'losses.hint.adapters.0.weight'}
    assert_same(seen[0], seen[1])


def test_a_game_with_a_discriminator_stays_the_same_to_the_bit(segmenting):
    seen = []
    for hooks in ([], [HOOK]):
        watch = Watch()
        segmenting(validate=True, hooks=[watch], custom_hooks=hooks).train()
        seen.append(watch.seen)
    assert len(seen[0]) == 4
    assert_same(seen[0], seen[1])


def test_it_is_logged_before_the_first_step_in_intervals_and_at_the_end(training, tmp_path):
    model = hint_stage()
    runner = training(
        validate=True,
        model=model,
        custom_hooks=[dict(HOOK, interval=3)],
        default_hooks=dict(NO_SAVING, logger=dict(type='LoggerHook', interval=1)),
    )
    runner.train()
    lines = read_scalars(tmp_path / 'work')
    steps, values = curve(lines, KEY)
    assert steps == [0, 3, 4]  # before the first step, once in three, at the end
    assert values[0] > values[-1] > 0
    assert values[-1] == pytest.approx(measure_validation(runner)['hint'])
    (log, *_) = (tmp_path / 'work').glob('*/*.log')
    assert f'Validation set, iter 3  loss_kd_hint: {values[1]:.4f}' in log.read_text()


def test_metrics_are_those_of_evaluations_alone():
    found = [{KEY: 0.5, 'step': 3}, {'coco/bbox_mAP': 0.2, 'step': 4}, {KEY: 0.4, 'step': 4}]
    assert validations([{'loss': 1, 'step': 2}, *found]) == {4: {'coco/bbox_mAP': 0.2}}


def test_the_report_draws_it_as_a_curve_of_its_own():
    lines = [{'loss': 2, 'loss_kd_hint': 2, 'step': 1}, {KEY: 3, 'step': 1}, {KEY: 2, 'step': 2}]
    run = SimpleNamespace(name='stage 1', colour='#123456', lines=lines, metrics={})
    groups = report_curves([run])['charts']
    assert [[chart['title'] for chart in group['charts']] for group in groups] == [
        ['loss'], ['hint'], ['hint']
    ]  # fmt: skip
    assert groups[-1]['title'] == 'Distillation losses on the validation set'


def test_epochs_are_counted_where_the_training_counts_them(training, tmp_path):
    loader = dict(
        training().cfg.train_dataloader, sampler=dict(type='DefaultSampler', shuffle=True)
    )
    training(
        validate=True,
        model=hint_stage(),
        custom_hooks=[HOOK],
        default_hooks=NO_SAVING,
        train_dataloader=loader,
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=3, val_begin=10**9),
    ).train()
    lines = [line for line in read_scalars(tmp_path / 'work') if KEY in line]
    assert [line['step'] for line in lines] == [0, 2, 3]


def test_a_training_that_goes_on_is_not_measured_before_its_first_step(training, tmp_path):
    options = dict(validate=True, model=hint_stage(), custom_hooks=[HOOK], train_cfg=NEVER)
    training(**options).train()
    again = training(
        **options | dict(model=hint_stage()),
        work_dir='again',
        resume=True,
        load_from=str(tmp_path / 'work/iter_2.pth'),
    )
    again.train()
    lines = [line for line in read_scalars(tmp_path / 'again') if KEY in line]
    assert [line['step'] for line in lines] == [4]
    assert lines[0][KEY] == curve(read_scalars(tmp_path / 'work'), KEY)[1][-1]


def test_what_needs_annotations_is_left_out_and_told(training, tmp_path):
    runner = training(  # with the own loss, which does not run
        validate=True,
        model=dict(losses=HINT | dict(ld=dict(type='kd_dense.LocalizationDistillation'))),
        train_cfg=NEVER,
        custom_hooks=[HOOK],
        default_hooks=NO_SAVING,
    )
    runner.train()
    line = next(line for line in read_scalars(tmp_path / 'work') if KEY in line)
    assert set(line) == {KEY, 'step'}
    (log, *_) = (tmp_path / 'work').glob('*/*.log')
    assert 'ld is not known of these images and is left out' in log.read_text()


def test_a_loss_that_is_not_in_force_runs_no_teacher(training, tmp_path):
    runner = training(
        validate=True,
        model=hint_stage(),
        train_cfg=dict(NEVER, max_iters=2),
        custom_hooks=[
            HOOK,
            dict(type='kd_dense.WeightScheduleHook', schedules={'*': dict(kind='stop', begin=1)}),
        ],
        default_hooks=NO_SAVING,
    )
    runner.train()
    assert [line['step'] for line in read_scalars(tmp_path / 'work') if KEY in line] == [0]


def test_segmentors_are_measured_without_their_labels(segmenting):
    runner = segmenting(validate=True)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    calls = []
    runner.model.student.decode_head.register_forward_hook(lambda *_: calls.append(1))
    losses = runner.model.losses
    before = {name: loss.weight for name, loss in losses.items()}
    measured = measure_validation(runner)
    assert set(measured) == set(before) == {'pixel', 'pair', 'holistic'}
    assert len(calls) == len(runner.val_dataloader)  # the student once a batch
    losses['pixel'].weight = 3 * before['pixel']
    assert measure_validation(runner)['pixel'] == pytest.approx(3 * measured['pixel'])


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(validate=False, train_cfg=dict(type='IterBasedTrainLoop', max_iters=1)),
         'finds no validation set'),
        (dict(validate=True, model=dict(losses=dict(
            ld=dict(type='kd_dense.LocalizationDistillation')))),
         'ld cannot be taken on the validation set'),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_told_before_the_first_step(training, changes, message):
    runner = training(custom_hooks=[HOOK], default_hooks=NO_SAVING, **changes)
    with pytest.raises(SetupError, match=message):
        runner.train()
    assert runner.iter == 0


def test_an_interval_of_nothing_is_refused():
    with pytest.raises(SetupError, match='interval=0; it must be at least 1'):
        ValidationLossHook(interval=0)


# -- two ranks -----------------------------------------------------------------------------------


def measure(rank: int, folder: str, root: str) -> None:
    """One of two ranks; what it measured goes into a file, of even and of uneven shares."""
    torch.set_num_threads(1)
    os.environ |= {'LOCAL_RANK': str(rank), 'RANK': str(rank), 'WORLD_SIZE': '2'}
    torch.distributed.init_process_group('gloo', f'file://{folder}/group', rank=rank, world_size=2)
    config = Config(one_by_one(base_config(Path(root), Path(folder) / f'rank{rank}')))
    config.launcher = 'pytorch'
    config.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel', broadcast_buffers=False, device_ids=None
    )
    found = [measure_validation(Runner.from_cfg(config))]
    config.experiment_name += '_uneven'
    config.val_dataloader.dataset.indices = 3
    config.val_dataloader.sampler.round_up = False
    try:
        measure_validation(Runner.from_cfg(config))
    except SetupError as error:
        found.append(str(error))
    torch.save(found, f'{folder}/{rank}.pt')
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads may abort a Python that takes itself apart


def one_by_one(config: dict) -> dict:
    config['val_dataloader']['batch_size'] = 1
    return config | dict(model=hint_stage())


@pytest.fixture(scope='module')
def of_ranks(digits_root, tmp_path_factory) -> list:
    """What each of two ranks measured."""
    folder = tmp_path_factory.mktemp('ranks')
    in_ranks(measure, str(folder), str(digits_root))
    return [torch.load(folder / f'{rank}.pt') for rank in (0, 1)]


@pytest.mark.slow
def test_two_ranks_agree_with_one(of_ranks, digits_root, tmp_path):
    (one, _), (two, _) = of_ranks
    runner = Runner.from_cfg(Config(one_by_one(base_config(digits_root, tmp_path))))
    assert one == two
    assert one['hint'] == pytest.approx(measure_validation(runner)['hint'], rel=1e-5)


@pytest.mark.slow
def test_ranks_with_different_numbers_of_batches_are_told_and_do_not_wait(of_ranks):
    for _, told in of_ranks:
        assert 'The ranks have 1 and 2 batches' in told
