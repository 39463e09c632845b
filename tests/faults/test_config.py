"""Wrong values and names in configs: each row is an override, or several, and the words it ends in.

The tool is ``kd-dense train``, unless the row names another.
"""

import re

import pytest

from tests.faults.world import call, train

L, T, S = 'model.losses', 'model.teacher', 'model.student'
ROWS = [
    # losses
    (f'{L}.ld.weight=-1.0', r'weight of a LocalizationDistillation is -1\.0; it must be a finite'),
    (f'{L}.ld.weight=nan', r'weight of a LocalizationDistillation is .*nan.*; it must be'),
    (f'{L}.ld.weight=1e999', r'weight of a LocalizationDistillation is .*inf.*; it must be'),
    (f'{L}.ld.weight=abc', r"is 'abc'; it must be"),
    (f'{L}.ld.weight=None', r'is None; it must be'),
    (f'{L}.ld.weight=True', r'is True; it must be'),
    (f'{L}.ld.type=kd_dense.Nope', r"losses\.ld: there is no type 'kd_dense\.Nope'\. Types are"),
    (f'{L}.ld.type=mmdet.CrossEntropyLoss', r'is a CrossEntropyLoss, which is no distillation'),
    (f'{L}.ld.type=kd_dense.LocalisationDistillation', r"Did you mean 'LocalizationDistillation'"),
    (f'{L}.ld.type=3', r'losses\.ld: there is no type 3'),
    (f'{L}.new.weight=1', r'losses\.new has no `type`: found .*misspelt in --cfg-options'),
    (f'{L}.imitaton.weight=0', r'losses\.imitaton has no `type`'),
    (f'{L}.ld.regin=main', r"losses\.ld .*Did you mean 'region'\?"),
    (f'{L}.ld=hello', r"losses\.ld is 'hello'; it has to be a dict"),
    (f'{L}=hello', r'losses.*hello'),
    (f'{L}.ld.region=middle', r"region.*'middle'.*main"),
    (f'{L}.cls.temperature=0', r'temperature is 0; it must be above 0'),
    (f'{L}.cls.temperature=-2', r'temperature is -2; it must be above 0'),
    (f'{L}.cls.temperature=abc', r"losses\.cls .*Look at its values: .*temperature='abc'"),
    (f'{L}.cls.temperature=None', r'losses\.cls .*temperature=None'),
    (f'{L}.cls.activation=softplus', r'softplus'),
    (f'{L}.ld.teacher=nobody', r'nobody'),
    (f'{L}.px.type=kd_dense.PixelWise', r'losses\.px: PixelWise reads seg_logits'),
    (f'{L}.h.type=kd_dense.Holistic', r'losses\.h'),
    # teachers
    (
        f'{T}.checkpoint=nowhere.pth',
        r'checkpoint of the teacher was not found: nowhere\.pth .*Train',
    ),
    (f'{T}.checkpoint=None', r'The teacher has no checkpoint\. Name one'),
    (f'{T}.checkpoint=ld.py', r'teacher ld\.py cannot be read: it is no file that torch wrote'),
    (f'{T}.checkpoint=digits', r'checkpoint of the teacher was not found: digits'),
    (f'{T}.checkpoint=foo://bar.pth', r'URL of an unknown kind: foo://bar\.pth\. Use https'),
    (f'{T}.checkpoint=http://localhost:9/a.pth', r'without encryption.*--allow-http'),
    (f'{T}.checkpoint=https://localhost:9/a.pth', r'could not be fetched: .*Download it on a'),
    (f'{T}.checkpoint=run/iter_2_student.pth', r'does not fit the teacher: .*other shape'),
    (f'{T}.config=configs/nope.py', r'config of the teacher was not found: configs/nope\.py'),
    (f'{T}.config=mmdet::nope.py', r'config of the teacher was not found: mmdet::nope\.py'),
    (f'{T}.config=nope::nope.py', r'config of the teacher was not found: nope::nope\.py'),
    (f'{T}.config=teacher.pth', r'teacher\.pth.*(cannot be read|is no Python|extension|format)'),
    (
        f'{T}.config=digits/digits.json',
        r'config of the teacher holds no `model`: .* in digits/digits\.json',
    ),
    (f'{T}.dtype=float8', r"teacher\.dtype is 'float8'; choose one of float32"),
    (f'{T}.scale=0', r'teacher\.scale is 0; it is a number from 1 on'),
    (f'{T}.scale=large', r"teacher\.scale is 'large'; it is a number from 1 on"),
    (f'{T}.scale=1.5', r'losses\.ld: .* the teacher \(GFLHead at scale 1\.5, .* does not offer'),
    (f'{T}.fast=no', r"teacher\.fast is 'no'; it is True or False"),
    (f'{T}.same_classes=maybe', r"teacher\.same_classes is 'maybe'; it is True or False"),
    (f'{T}.trust=yes', r"teacher\.trust is 'yes'; it is True or False"),
    (f'{T}.classes=some', r"teacher\.classes is 'some'; it is 'by name', or a dict"),
    ('model.peers.b.seed=1', r'peers\.b is .*; it is `dict\(model=CONFIG\)`'),
    ('model.losses.ld.student=b', r"losses\.ld\.student is 'b'; choose one of 'student'"),
    (f'{T}.chekpoint=a.pth', r"configured by .*Did you mean 'checkpoint'\?"),
    (f'{T}.type=kd_dense.Nope', r"there is no type 'kd_dense\.Nope'"),
    (f'{T}=hello', r'teacher'),
    # the model
    ('model.losss.ld=1', r"model.*has no argument 'losss'\. Did you mean 'losses'\?"),
    ('model.type=kd_dense.Distiler', r"no type 'kd_dense\.Distiler'.*Did you mean 'Distiller'"),
    (f'{S}.type=Nope', r"There is no type 'Nope' \(mmdet::model\)"),
    (f'{S}.type=GLF', r"There is no type 'GLF' .*Did you mean 'GFL'"),
    (f'{S}.nek.type=FPN', r"GFL.*has no argument 'nek'\. Did you mean 'neck'\?"),
    (f'{S}.neck.out_channels=24', r'takes 16 channels and gets 24.*in_channels'),
    (f'{S}.neck.in_channels=[8,8,8,8]', r'channels.*in_channels'),
    (f'{S}.backbone.depth=19', r'ResNet.*(19|depth)'),
    (f'{S}.bbox_head.num_classes=7', r'head of the student has 7 classes, the training set 10'),
    (f'{S}.bbox_head.loss_cls.type=NopeLoss', r"There is no type 'NopeLoss'"),
    (f'{S}.backbone.init_cfg.type=Pretrained', r'type Pretrained names no `checkpoint`'),
    # optimizer and schedule
    (
        'optim_wrapper.optimizer.type=Adamm',
        r"optim_wrapper\.optimizer: there is no type 'Adamm'\. Did you mean 'Adam",
    ),
    ('optim_wrapper.optimizer.lrr=1', r"optim_wrapper\.optimizer \(AdamW\) has no argument 'lrr'"),
    ('optim_wrapper.optimizer.lr=-1', r'AdamW.*Invalid learning rate: -1'),
    ('optim_wrapper.optimizer.lr=abc', r"AdamW.*lr='abc'"),
    ('optim_wrapper.optimizer=None', r'optim_wrapper\.optimizer is None; it is a dict'),
    ('optim_wrapper.type=Nope', r"There is no type 'Nope'"),
    ('optim_wrapper.clip_grad.max_nrm=1', r'max_nrm'),
    ('optim_wrapper=None', r'no `optim_wrapper`, which training needs'),
    ('train_cfg=None', r'no `train_cfg`, which training needs'),
    ('train_cfg.max_iter=3', r"IterBasedTrainLoop\) has no argument 'max_iter'.*'max_iters'"),
    ('train_cfg.max_iters=0', r'train_cfg\.max_iters is 0; .*nothing would be trained'),
    ('train_cfg.max_iters=-3', r'train_cfg\.max_iters is -3; '),
    ('train_cfg.max_iters=ten', r"train_cfg\.max_iters is 'ten'; "),
    ('train_cfg.val_interval=0', r'train_cfg\.val_interval is 0; it is 1 or more'),
    ('train_cfg.type=NopeLoop', r"There is no type 'NopeLoop'"),
    ('param_scheduler.type=NopeLR', r"There is no type 'NopeLR'"),
    ('randomness.seed=abc', r"randomness\.seed is 'abc'; it is a whole number"),
    ('randomness.seed=-1', r'randomness\.seed is -1; it is a whole number of 0 or more'),
    ('randomness.sead=1', r"no option 'sead'"),
    # hooks
    ('custom_hooks.0.type=kd_dense.Nope', r"There is no type 'kd_dense\.Nope' .*hook"),
    (
        'custom_hooks.9.type=kd_dense.Nope',
        r'--cfg-options names the element 9 of a list that has fewer',
    ),
    ('custom_hooks.NopeHook.x=1', r"is a list with no 'NopeHook'; it has StudentCheckpointHook"),
    (
        'custom_hooks.0.type=kd_dense.WeightScheduleHook',
        r'A WeightScheduleHook without `schedules` schedules nothing',
    ),
    ('custom_hooks.0.x=1', r"custom_hooks\.0 \(StudentCheckpointHook\) has no argument 'x'"),
    (
        'default_hooks.checkpoint.interval=abc',
        r'A hook failed \(.*CheckpointHook\): .*default_hooks',
    ),
    ('default_hooks.checkpoint.intervall=2', r'intervall'),
    # data
    ('train_dataloader=None', r'no `train_dataloader`, which training needs'),
    ('train_dataloder.batch_size=4', r'no `train_dataloder`, .* Did you mean `train_dataloader`'),
    ('nonsense=4', r'the config has no `nonsense`, and nothing would read it\. It has `'),
    ('train_dataloader.batch_size=0', r'train_dataloader\.batch_size is 0; it is a whole number'),
    ('train_dataloader.batch_size=two', r"train_dataloader\.batch_size is 'two'"),
    ('train_dataloader.num_workers=-1', r'train_dataloader\.num_workers is -1; '),
    ('train_dataloader.batchsize=2', r"no option 'batchsize' of DataLoader"),
    (
        'train_dataloader.batch_sampler.type=kd_dense.BesideLabelled',
        r'draws from a kd_dense\.WithUnlabelled, and the data set is a CocoDataset\. Put',
    ),
    ('model.teacher.type=kd_dense.FeatureTeacher', r'FeatureTeacher\) is configured by `model`'),
    ('model.unlabelled_weight=-1', r'unlabelled_weight is -1; it is a finite number'),
    ('train_dataloader.sampler.type=Nope', r"There is no type 'Nope' .*sampler"),
    ('train_dataloader.sampler.shufle=True', r"InfiniteSampler.* has no argument 'shufle'"),
    ('train_dataloader.dataset=None', r'train_dataloader has no `dataset`'),
    ('train_dataloader.dataset.type=Nope', r"There is no type 'Nope'|no type.*Nope"),
    (
        'train_dataloader.dataset.ann_file=',
        r'The `ann_file` of train_dataloader is .*, which is no file\. Name the file',
    ),
    ('train_dataloader.dataset.ann_file=nope.json', r'The data is not there: .*nope\.json'),
    ('train_dataloader.dataset.data_root=nowhere/', r'The data is not there: nowhere/'),
    (
        'train_dataloader.dataset.data_prefix.img=nope/',
        r'12 of 12 images are not there \(first: |There is no file digits/nope',
    ),
    ('train_dataloader.dataset.pipeline=[]', r'train_dataloader\.dataset\.pipeline is empty'),
    ('train_dataloader.dataset.pipeline.0.type=Nope', r"There is no type 'Nope'"),
    ('train_dataloader.dataset.pipline=[]', r"CocoDataset.*'pipline'"),
    ('val_evaluator.type=Nope', r"There is no type 'Nope'"),
    ('val_evaluator.metrik=bbox', r"CocoMetric\) has no argument 'metrik'"),
    ('val_evaluator.ann_file=nope.json', r'nope\.json'),
    ('val_evaluator=None', r'no `val_evaluator`, which val needs'),
    ('val_dataloader.dataset.ann_file=nope.json', r'The data is not there: .*nope\.json'),
    # the rest
    ('default_scope=nope', r"default_scope is 'nope', and there is no such package"),
    ('model=None', r'no `model`'),
    ('load_from=nowhere.pth', r'nowhere\.pth'),
    ('visualizer.type=Nope', r"There is no type 'Nope'"),
    ('log_level=LOUD', r"log_level is 'LOUD'; it is INFO"),
    ('env_cfg.mp_cfg.mp_start_method=nope', r"mp_start_method is 'nope'; it is fork"),
]


@pytest.mark.parametrize(('override', 'words'), ROWS, ids=[row[0] for row in ROWS])
def test_override(world, override, words):
    key, value = override.split('=', 1)
    world.options[key] = value
    done = train(world)
    assert done.code in (1, 2), done.text
    assert 'Traceback' not in done.text
    error = done.text[done.text.index('error: ') :]
    assert re.search(words, error, re.DOTALL), error


NAMES = [
    ('train_dataloder', 'train_dataloader'),
    ('optim_wraper', 'optim_wrapper'),
    ('param_schedulers', 'param_scheduler'),
    ('custom_hook', 'custom_hooks'),
    ('val_evalutor', 'val_evaluator'),
    ('default_hook', 'default_hooks'),
]


@pytest.mark.parametrize(('wrong', 'right'), NAMES, ids=[wrong for wrong, _ in NAMES])
def test_a_misspelt_name_in_a_config(world, wrong, right):
    world.edit_config(lambda config: config.update({wrong: dict(x=1)}))
    done = train(world)
    assert done.code == 1, done.text
    assert f'nothing reads `{wrong}`; did you mean `{right}`?' in done.text


TEXTS = [
    ('', r'ld\.py has no `model` with a `type`: it (is empty|holds `experiment_name`)'),
    ('x = (', r"ld\.py is no Python that can be read: '\(' was never closed"),
    ('x = 1', r'ld\.py has no `model` with a `type`: it holds .*`x`'),
    ('x = y', r"ld\.py, line 1, cannot be read: NameError: name 'y' is not defined"),
    ('x = 1 / 0', r'ld\.py, line 1, cannot be read: ZeroDivisionError'),
    ("_base_ = ['gone.py']", r'gone\.py'),
    ("custom_imports = dict(imports=['no_such_module'])\nmodel = dict(type='GFL')",
     r'no_such_module'),
    ('model = 3', r'ld\.py has no `model` with a `type`'),
    ("data_root = '{{$DIGITS_ROOT:digits}}/'\nmodel = dict(type='GFL')", r'is no Python .*quote'),
]  # fmt: skip


@pytest.mark.parametrize('tool', ['train', 'check', 'test', 'export'])
@pytest.mark.parametrize(('text', 'words'), TEXTS, ids=[text[:24] or 'empty' for text, _ in TEXTS])
def test_a_config_that_cannot_be_read(world, tool, text, words):
    (world / 'ld.py').write_text(text)
    world.environment['DIGITS_ROOT'] = "it's"
    more = ['run/iter_2.pth'] if tool in ('test', 'export') else []
    done = call(world, tool, 'ld.py', *more)
    assert done.code == 1, done.text
    assert re.search(words, done.text, re.DOTALL), done.text
    assert 'Traceback' not in done.text


def test_a_variable_of_a_config_is_warned_of(world):
    world.edit_config(lambda config: config.update(dict(max_steps=2)))
    world.options['max_steps'] = '1'
    done = train(world)
    assert done.code == 0, done.text
    assert 'warning: --cfg-options max_steps: `max_steps` is a variable of the config' in done.text
