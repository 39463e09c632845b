"""Chain files: what is wrong with one is told before anything is trained."""

import math
from pathlib import Path

import pytest
from mmengine.config import Config, ConfigDict

from kd_dense.chain import read_chain
from kd_dense.chain.job import PLACE
from kd_dense.chain.rows import sample, settled
from kd_dense.chain.stage_config import stretch
from kd_dense.chain.training import write_config
from kd_dense.errors import SetupError
from kd_dense.report.numbers import METRICS

ROOT = Path(__file__).parents[2]
GFL = ROOT / 'configs/digits/gfl_r18-quarter_digits.py'
LD = ROOT / 'configs/digits/ld_gfl_r18-quarter_digits.py'
LARGE = ROOT / 'configs/digits/gfl_r18-half_digits.py'


def chain(folder: Path, text: str, **options):
    file = folder / 'chain.py'
    file.write_text(f'folder = {str(folder / "out")!r}\n{text}')
    return read_chain(file, **options)


def stages(*lines: str, compare: str = '') -> str:
    return f'stages = dict({", ".join(lines)})\ncompare = dict({compare})'


WRONG = {
    'stage = dict()': r"nothing reads 'stage'. Did you mean 'stages'",
    'stages = dict()': 'has no `stages`',
    stages('a=dict(title="x")'): "stage 'a' has no `config`",
    stages('a=3'): "stage 'a' has no `config`",
    stages(f'a=dict(config="{GFL}", step=3)'): "nothing reads 'step'. Did you mean 'steps'",
    stages(f'a=dict(config="{GFL}", options=dict(load_from="{{b}}"))'): (
        r'names \{b\}, which is no stage. .*`a`'
    ),
    stages(f'a=dict(config="{GFL}", options=dict(load_from="{{a.first}}"))'): (
        r'\{a.best\} the best one'
    ),
    stages(
        f'a=dict(config="{GFL}", options=dict(load_from="{{b}}"))',
        f'b=dict(config="{GFL}", options=dict(load_from="{{a}}"))',
    ): 'the stages `a`, `b` wait for each other',
    stages(f'a=dict(config="{GFL}", options=dict(load_from="{{a}}"))'): 'wait for each other',
    stages(f'a=dict(config="{GFL}")', compare=f'a=dict(config="{GFL}")'): 'rename one',
    stages(f'**{{"a/b": dict(config="{GFL}")}}'): 'it is a folder too',
    stages(f'a=dict(config="{GFL}", steps=0)'): "stage 'a': steps is 0",
    stages(f'a=dict(config="{LD}", stored=True)'): "stage 'a': stored is True; it is a number",
    stages(f'a=dict(config="{LD}", stored=0)'): "stage 'a': stored is 0",
    stages(f'a=dict(config="{GFL}", stored=1)'): 'with one teacher; found none',
    stages(f'a=dict(config="{GFL}", teacher="{{b}}")', f'b=dict(config="{GFL}")'): (
        'its config is no distillation. Name a `recipe`'
    ),
    stages(f'a=dict(config="{GFL}", recipe="ld")'): 'a recipe and no teacher',
    stages(
        f'a=dict(config="{GFL}", recipe="pkd", teacher=dict(type="kd_dense.FeatureTeacher"))'
    ): 'a teacher without `config` .kd_dense.FeatureTeacher., and a recipe is checked',
    stages(f'a=dict(config="{GFL}", unlabelled="rest")'): 'This GFL trains without a teacher',
    stages(
        f'a=dict(config="{GFL}", recipe="l", teacher="{{b}}")', f'b=dict(config="{LARGE}")'
    ): "There is no recipe 'l'",
    stages(f'a=dict(config="{GFL}", options={{"modle.type": 1}})'): ('Did you mean `model`'),
    stages(
        f'a=dict(config="{LD}", once=True, teacher="{{b}}")', f'b=dict(config="{LARGE}")'
    ): 'of which each seed has its own',
}


@pytest.mark.parametrize('text', WRONG)
def test_what_is_wrong_is_told_before_anything_is_trained(text, tmp_path):
    with pytest.raises(SetupError, match=WRONG[text]):
        chain(tmp_path, text, seeds=[0, 1])
    assert not (tmp_path / 'out').exists()


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match='no chain file'):
        read_chain(tmp_path / 'nothing.py')
    with pytest.raises(FileNotFoundError, match=r'nothing\.py'):
        chain(tmp_path, stages('a=dict(config="nothing.py")'))


def test_a_recipe_makes_a_distillation_of_a_plain_training(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    made = chain(
        tmp_path,
        stages(
            f'big=dict(config="{LARGE}")',
            f'small=dict(config="{GFL}", recipe="pkd", teacher="{{big}}", seed=2, steps=600)',
        ),
        seeds=[5],
    )
    big, small = made.jobs
    assert list(small.needs) == ['big']
    assert small.config.model.type == 'kd_dense.Distiller'
    assert small.config.model.teacher.checkpoint == '{big}'
    assert small.config.randomness.seed == 2005 and big.config.randomness.seed == 5
    assert small.config.train_cfg.max_iters == 600
    big.folder.mkdir(parents=True)
    (big.folder / 'iter_7.pth').touch()
    write_config(small)
    written = Config.fromfile(small.config_file)
    assert written.model.teacher.checkpoint == str(big.folder / 'iter_7.pth')
    assert written.model.teacher.config == str(big.config_file)
    assert big.config_file == tmp_path / 'out/seed_5/big.py'


def test_the_student_and_teacher_of_a_distillation_are_exchanged(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    made = chain(
        tmp_path,
        stages(
            f'b=dict(config="{GFL}")',
            f'a=dict(config="{LD}", student="{LARGE}", teacher="{{b.best}}")',
        ),
    )
    config = made.jobs[1].config
    assert config.model.student.backbone == Config.fromfile(LARGE).model.backbone
    assert dict(config.model.teacher) == dict(config='{b.config}', checkpoint='{b.best}')
    folder = made.jobs[0].folder
    folder.mkdir(parents=True)
    for name in ('iter_9.pth', 'best_mIoU_iter_4.pth', 'best_mIoU_iter_4_student.pth'):
        (folder / name).touch()
    assert made.jobs[1].filled('{b.best}').endswith('best_mIoU_iter_4_student.pth')
    assert made.jobs[1].filled('{b}').endswith('iter_9.pth')


def test_a_fingerprint_tells_what_the_result_depends_on(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)

    def marks(first: str = '', second: str = '') -> list[str]:
        text = stages(
            f'b=dict(config="{LARGE}"{first})',
            f'a=dict(config="{LD}", teacher="{{b}}"{second})',
        )
        return [job.fingerprint for job in chain(tmp_path, text).jobs]

    usual = marks()
    assert marks() == usual
    assert marks(', title="other", minutes=3') == usual
    changed = marks(second=', options={"optim_wrapper.optimizer.lr": 1.0}')
    assert changed[0] == usual[0] and changed[1] != usual[1]
    changed = marks(', seed=1')
    assert changed[0] != usual[0] and changed[1] != usual[1]


def test_label_pictures_count_where_a_segmentors_images_are_a_list_of_names(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    data = tmp_path / 'digits_seg'
    labels = data / 'VOC2007/SegmentationClass'
    labels.mkdir(parents=True)
    names = data / 'VOC2007/ImageSets/Segmentation'
    names.mkdir(parents=True)
    for split in ('train', 'val'):
        (names / f'{split}.txt').write_text('a\n')
    (labels / 'a.png').write_bytes(b'one')
    monkeypatch.setenv('DIGITS_SEG_ROOT', str(data))
    text = stages('a=dict(config="configs/digits/pspnet_r18-quarter_digits-seg.py")')
    usual = chain(tmp_path, text).jobs[0].fingerprint
    assert chain(tmp_path, text).jobs[0].fingerprint == usual
    (labels / 'a.png').write_bytes(b'other')
    assert chain(tmp_path, text).jobs[0].fingerprint != usual


def test_steps_stretch_the_schedule():
    config = Config.fromfile(ROOT / 'configs/digits/structured_pspnet_r18-quarter_digits-seg.py')
    config.custom_hooks.append(
        ConfigDict(
            type='kd_dense.WeightScheduleHook',
            schedules=dict(
                pixel=[dict(kind='linear', begin=100, end=200), dict(kind='stop', begin=400)],
                pair=dict(kind='constant', begin=10),
            ),
        )
    )
    student = config.param_scheduler
    stretch(config, 400)
    assert config.train_cfg.max_iters == 400 and config.train_cfg.val_interval == 100
    assert [(each.begin, each.end) for each in student] == [(0, 25), (25, 400)]
    phases = config.custom_hooks[-1].schedules
    assert [dict(p) for p in phases.pixel] == [
        dict(kind='linear', begin=50, end=100),
        dict(kind='stop', begin=200),
    ]
    assert phases.pair.begin == 5
    assert config.default_hooks.checkpoint.interval == 50
    stretch(config, 1)
    assert config.train_cfg.val_interval == 1


def test_schedules_by_name_and_by_epoch_are_stretched_too():
    config = Config(
        dict(
            train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1),
            param_scheduler=dict(
                student=[dict(type='MultiStepLR', begin=0, end=12, milestones=[8, 11])],
                discriminator=dict(type='LinearLR', begin=0, end=500),
            ),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=-1)),
        )
    )
    stretch(config, 24)
    assert config.param_scheduler.student[0].milestones == [16, 22]
    assert config.param_scheduler.discriminator.end == 1000
    assert config.train_cfg.val_interval == 2
    assert config.default_hooks.checkpoint.interval == -1


def test_names_in_braces():
    assert PLACE.findall('{a} {b-2.best} {} {0} iter_{}.pth') == [('a', ''), ('b-2', 'best')]


def test_samples():
    one, three = sample([4.0]), sample([1.0, 2.0, 3.0])
    assert one.text() == '4.0' and one.interval is None
    assert three.mean == 2 and math.isclose(three.error, 1 / math.sqrt(3))
    assert math.isclose(three.interval, 4.30 / math.sqrt(3))
    assert three.text(signed=True) == '+2.0 ± 0.6'


def test_a_baseline_is_settled_when_its_last_quarter_is_flat():
    def row(*values: float) -> dict:
        kept = {str(10 * (i + 1)): {'coco/bbox_mAP': v} for i, v in enumerate(values)}
        return dict(steps=10 * len(values), validations=kept)

    rising, flat = row(*(0.1 * i for i in range(8))), row(*([0.1] * 5), 0.3, 0.31, 0.304)
    assert settled([rising], METRICS[0]) is False
    assert settled([flat], METRICS[0]) is True
    assert settled([row(0.1, 0.1)], METRICS[0]) is None
