"""Images without labels beside labelled ones: who sees which, and what comes of it."""

import copy

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import Runner

from kd_dense import MODELS, Distiller
from kd_dense.chain.fingerprint import fingerprint, is_whole
from kd_dense.check.findings import Section
from kd_dense.check.first_batch import examine_batch
from kd_dense.compose import read_recipe, recipes
from kd_dense.errors import SetupError
from kd_dense.hooks.loss_balance import measure_distiller
from kd_dense.hosts.configs import plain_student
from kd_dense.unlabelled import MARK, WithUnlabelled, use_unlabelled
from kd_dense.unlabelled.dataset import without_annotations
from kd_dense.views import Batch
from tests.helpers import segmentation, two_stage
from tests.helpers.models import distiller, gfl, gradients, raw_batch
from tests.helpers.processes import in_ranks
from tests.helpers.trainings import base_config, shapes_config

PKD = dict(type='kd_dense.PearsonDistillation', weight=1.0)
LD = dict(type='kd_dense.LocalizationDistillation', region='main')
BOTH = dict(pkd=PKD, ld=LD)
HOSTS = {
    'GFL': lambda **more: distiller(losses=BOTH, **more),
    'Faster R-CNN': lambda **more: two_stage.distiller(
        losses=dict(pkd=PKD, ld=dict(two_stage.losses()['roi_cls'])), **more
    ),
    'PSPNet': lambda **more: segmentation.distiller(
        dict(
            pkd=dict(type='kd_dense.ChannelWise'),
            ld=dict(type='kd_dense.MeritBased', part='decode'),
        ),
        **more,
    ),
}


def build(config: dict) -> Distiller:
    torch.manual_seed(0)
    model = MODELS.build(config)
    model.init_weights()
    return model.train()


def raw(host: str, labelled: tuple[bool, ...]) -> dict:
    """A batch of images that may have labels; those of a detector differ in size."""
    if host == 'PSPNet':
        data = segmentation.raw_batch(((64, 64),) * len(labelled))
    else:
        data = raw_batch((3, 2, 4, 1)[: len(labelled)])
    for sample, said in zip(data['data_samples'], labelled, strict=True):
        if not said:
            sample.set_metainfo({MARK: False})
    return data


def chosen(data: dict, kept: list[int]) -> dict:
    """Some images of a batch."""
    return copy.deepcopy({key: [value[i] for i in kept] for key, value in data.items()})


def run(model: Distiller, data: dict) -> dict[str, torch.Tensor]:
    """The losses of a batch, each a scalar; sampling draws the same numbers each time."""
    torch.manual_seed(1)
    np.random.seed(1)
    model.zero_grad()
    found = model(**model.data_preprocessor(copy.deepcopy(data), True), mode='loss')
    return dict(model.parse_losses(found)[1]) | dict(total=model.parse_losses(found)[0])


# -- who sees which ------------------------------------------------------------------------------


@pytest.mark.parametrize('host', HOSTS)
def test_the_own_loss_and_losses_with_labels_are_those_of_the_labelled_images_alone(host):
    data = raw(host, (False, True, True, False))
    alone = run(build(HOSTS[host]()), chosen(data, [1, 2]))
    mixed = run(build(HOSTS[host](unlabelled_weight=0.5)), data)
    assert set(mixed) - set(alone) == {'loss_kd_pkd_unlabelled'}
    for name in set(alone) - {'total', 'loss'}:
        assert torch.equal(torch.as_tensor(mixed[name]), torch.as_tensor(alone[name])), name


@pytest.mark.parametrize('host', HOSTS)
def test_with_all_weights_zero_gradients_are_those_of_the_labelled_images_alone(host):
    data = raw(host, (True, False, True))
    off = HOSTS[host](unlabelled_weight=1.0)
    for loss in off['losses'].values():
        loss['weight'] = 0.0
    models = build(off), build(HOSTS[host]())
    run(models[0], data)['total'].backward()
    alone = models[1].student
    torch.manual_seed(1)
    np.random.seed(1)
    part = models[1].data_preprocessor(chosen(data, [0, 2]), True)
    alone.parse_losses(alone(**part, mode='loss'))[0].backward()
    expected = gradients(alone)
    for name, gradient in gradients(models[0].student).items():
        assert torch.equal(gradient, expected[name]), name
    for name, buffer in models[0].student.named_buffers():
        assert torch.equal(buffer, dict(alone.named_buffers())[name]), name


@pytest.mark.parametrize('host', HOSTS)
def test_a_batch_of_labelled_images_trains_to_the_same_bits(host):
    data = raw(host, (True, True))
    models = build(HOSTS[host]()), build(HOSTS[host](unlabelled_weight=1.0))
    for model in models:
        run(model, data)['total'].backward()
    expected = gradients(models[0])
    assert gradients(models[1]).keys() == expected.keys()
    assert all(torch.equal(g, expected[n]) for n, g in gradients(models[1]).items())


@pytest.mark.parametrize('host', HOSTS)
def test_unlabelled_images_are_compared_as_a_batch_of_their_own(host):
    data = raw(host, (True, False, False, True))
    model, other = build(HOSTS[host](unlabelled_weight=0.5)), build(HOSTS[host]())
    found = run(model, data)
    alone = other.data_preprocessor(chosen(data, [1, 2]), True)
    expected = other.losses_without_labels(**alone)
    assert set(expected) == {'pkd'} and model.need_labels == {'ld'}
    assert torch.equal(found['loss_kd_pkd_unlabelled'].detach(), 0.5 * expected['pkd'])


def test_labels_of_unlabelled_images_are_not_read():
    data = raw('GFL', (True, False))
    spoilt = copy.deepcopy(data)
    spoilt['data_samples'][1].gt_instances.bboxes.tensor.add_(20)
    del spoilt['data_samples'][1].gt_instances
    model = build(HOSTS['GFL'](unlabelled_weight=1.0))
    assert run(model, spoilt) == run(model, data)


def test_dropped_out_weights_of_unlabelled_images_train_the_student():
    model = build(distiller(losses=BOTH, unlabelled_weight=1.0))
    model.train_step(raw('GFL', (False, False)), optimizer(model))  # no own loss, and no error
    model = build(distiller(losses=BOTH, unlabelled_weight=1.0))
    found = run(model, raw('GFL', (False, False)))
    assert {n for n, v in found.items() if v != 0} == {'loss_kd_pkd_unlabelled', 'loss', 'total'}
    found['total'].backward()
    got = gradients(model.student)
    assert set(got) == {n for n, p in model.student.named_parameters() if p.requires_grad}
    moved = {name.split('.')[0] for name, gradient in got.items() if gradient.abs().sum() > 0}
    assert moved == {'backbone', 'neck'}


def optimizer(model: Distiller):
    return build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=0.01)))


def test_batch_norms_see_the_two_kinds_one_after_the_other():
    model = build(distiller(losses=dict(pkd=PKD), unlabelled_weight=1.0))
    run(model, raw('GFL', (True, False)))
    assert int(model.student.backbone.bn1.num_batches_tracked) == 2


def test_a_value_that_is_not_finite_is_left_out_by_itself():
    model = build(distiller(losses=dict(pkd=PKD), unlabelled_weight=1.0))
    data = raw('GFL', (True, False))
    fine = run(model, data)
    forward = type(model.losses['pkd']).forward

    def spoilt(student, teacher):
        value = forward(model.losses['pkd'], student, teacher)
        return value if student.annotated else value * float('nan')

    model.losses['pkd'].forward = spoilt
    found = run(model, data)
    assert found['loss_kd_pkd_unlabelled'] == 0 and found['loss_kd_pkd'] == fine['loss_kd_pkd']


def test_the_balance_of_losses_counts_both_kinds():
    model = build(distiller(losses=dict(pkd=PKD), unlabelled_weight=1.0))
    data = raw('GFL', (True, False))
    found = run(model, data)
    measured = measure_distiller(model, data)
    expected = sum(float(found[n].detach()) for n in ('loss_kd_pkd', 'loss_kd_pkd_unlabelled'))
    assert measured['pkd'].value == pytest.approx(expected, rel=1e-5)


# -- recipes -------------------------------------------------------------------------------------

PAIRS = dict(
    gfl=(distiller, raw_batch),
    rcnn=(two_stage.distiller, raw_batch),
    seg=(segmentation.distiller, segmentation.raw_batch),
)
WITHOUT = {  # as docs/methods.md has it: the losses of a recipe that do without labels
    'gfl': dict(pkd={'pkd'}, hint={'hint'}, mgd={'mgd'}, cwd_features={'cwd'}, ld=set(),
                bckd=set(), crosskd=set(), fgd=set(), dist_one_stage=set(), merit_one_stage=set()),
    'rcnn': dict(chen2017={'hint'}, dkd=set(), dist_two_stage=set(), merit_two_stage=set()),
    'seg': dict(cwd={'cwd'}, dist={'dist'}, merit=set(), structured={'pixel', 'pair'}),
}  # fmt: skip


@pytest.mark.parametrize('host', PAIRS)
def test_which_losses_of_the_recipes_do_without_labels(host):
    make, batch = PAIRS[host]
    for name, expected in WITHOUT[host].items():
        losses = read_recipe(recipes()[name]).losses.to_dict()
        for loss in losses.values():
            loss['weight'] = loss.get('weight') or 1.0
        model = MODELS.build(make(losses=losses)).train()
        for loss in model.losses.values():
            loss.has_optimizer = loss.own_module() is not None
        data = model.data_preprocessor(batch(), True)
        model.load_teacher()
        alone = Batch(data['inputs'], data['data_samples'])
        found = model._of_unlabelled(alone, model.losses.values())
        assert set(found) == expected, name
        assert set(found) | model.need_labels == set(losses), name


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (dict(unlabelled_weight=-1), 'unlabelled_weight is -1; it is a finite number'),
        (dict(unlabelled_weight='all'), "unlabelled_weight is 'all'"),
        (dict(unlabelled_weight=1, own_loss=False), 'no image needs labels, and all count alike'),
        (dict(unlabelled_weight=1, losses={}), 'there are no `losses`'),
        (dict(unlabelled_weight=1, peers=dict(b=dict(model=gfl()))), 'and b computes what it'),
    ],
)
def test_what_teaches_nothing_is_refused(changes, words):
    with pytest.raises(SetupError, match=words):
        build(distiller(**(dict(losses=dict(pkd=dict(PKD, teacher='teacher'))) | changes)))


def test_marked_images_without_a_weight_are_refused():
    with pytest.raises(SetupError, match=r'own loss would take for empty .*unlabelled_weight=1'):
        run(build(distiller()), raw('GFL', (True, False)))


@pytest.mark.parametrize('off', [{}, dict(pkd=dict(PKD, weight=0.0))])
def test_losses_that_all_need_labels_are_refused(off):
    model = build(distiller(losses=dict(ld=LD, **off), unlabelled_weight=1.0))
    with pytest.raises(SetupError, match='teach nothing here: `ld` asks for what annotations tell'):
        run(model, raw('GFL', (True, False)))


def test_a_loss_that_a_schedule_turns_on_later_is_waited_for():
    model = build(distiller(losses=BOTH, unlabelled_weight=1.0))
    data = raw('GFL', (True, False))
    model.losses['pkd'].factor = 0.0
    assert run(model, data)['loss_kd_pkd_unlabelled'] == 0
    model.losses['pkd'].factor = 1.0
    assert run(model, data)['loss_kd_pkd_unlabelled'] > 0


# -- two ranks -----------------------------------------------------------------------------------

ORDERS = {
    'both on each': (True, False, True, False),
    'one without labels': (True, True, False, False),
    'one without unlabelled': (False, True, True, True),
    'none labelled': (False, False, False, False),
}


def _prepared() -> Distiller:
    losses = dict(hint=dict(type='kd_dense.FeatureImitation'), ld=LD)
    config = distiller(losses=losses, unlabelled_weight=1.0)
    config['student']['backbone']['norm_eval'] = True
    model = build(config)
    # as in tests/test_training.py: the host clamps averages of scores on each rank
    torch.nn.init.zeros_(model.student.bbox_head.gfl_cls.bias)
    return model


def _gradients(model: torch.nn.Module, order: str, part: slice) -> dict[str, torch.Tensor]:
    distilled = getattr(model, 'module', model)
    model.zero_grad()
    data = distilled.data_preprocessor(raw('GFL', ORDERS[order]), True)
    for sample in data['data_samples']:  # the same padding whoever is together
        sample.set_metainfo(dict(pad_shape=tuple(data['inputs'].shape[-2:])))
    found = model(data['inputs'][part], data['data_samples'][part], mode='loss')
    distilled.parse_losses(found)[0].backward()
    return {n: p.grad.clone() for n, p in distilled.named_parameters() if p.grad is not None}


def _rank(rank: int, file: str, out: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', f'file://{file}', rank=rank, world_size=2)
    model = torch.nn.parallel.DistributedDataParallel(_prepared())
    part = slice(2 * rank, 2 * rank + 2)
    found = {order: _gradients(model, order, part) for order in ORDERS}
    if rank == 0:
        torch.save(found, out)
    torch.distributed.destroy_process_group()


def test_two_ranks_equal_one_whoever_has_the_labels(tmp_path):
    out = tmp_path / 'gradients.pth'
    in_ranks(_rank, str(tmp_path / 'group'), str(out))
    two = torch.load(out)
    for order in ORDERS:
        for name, expected in _gradients(_prepared(), order, slice(0, 4)).items():
            torch.testing.assert_close(
                two[order][name],
                expected,
                rtol=1e-4,
                atol=1e-5 * float(expected.abs().max()) + 1e-9,
                msg=lambda text, name=name, order=order: f'{order}, {name}: {text}',
            )


# -- data ----------------------------------------------------------------------------------------


def with_unlabelled(config: dict, folder: str, ratio: float = 1.0) -> Config:
    config = Config(config)
    use_unlabelled(config, folder, ratio)
    return config


def detection(digits_root, tmp_path, folder: str = 'rest', ratio: float = 1.0) -> Config:
    config = base_config(digits_root, tmp_path / 'work')
    config['model']['losses'] = BOTH
    config['train_dataloader']['dataset']['indices'] = [0, 3, 6, 9]
    return with_unlabelled(config, folder, ratio)


def test_the_rest_of_a_data_set_is_unlabelled_and_marked(digits_root, tmp_path, own_scope):
    data: WithUnlabelled = DATASETS.build(detection(digits_root, tmp_path).train_dataloader.dataset)
    assert len(data) == 4 and len(data.unlabelled) == 8
    paths = [data.get_data_info(i)['img_path'] for i in range(12)]
    assert len(set(paths)) == 12
    marks = [data[i]['data_samples'].metainfo.get(MARK, True) for i in range(12)]
    assert marks == [True] * 4 + [False] * 8
    assert len(data[0]['data_samples'].gt_instances) > 0
    assert [len(data[i]['data_samples'].gt_instances) for i in range(4, 12)] == [0] * 8


def test_a_folder_of_images_is_searched_with_its_folders(digits_root, tmp_path, own_scope):
    for name in ('a.JPG', 'deep/b.png', 'notes.txt'):
        path = tmp_path / 'more' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == '.txt':
            path.write_text('no image')
        else:
            cv2.imwrite(str(path), np.zeros((40, 60, 3), np.uint8))
    config = detection(digits_root, tmp_path, str(tmp_path / 'more'))
    data = DATASETS.build(config.train_dataloader.dataset)
    assert [data.get_data_info(i)['img_path'] for i in (4, 5)] == [
        str(tmp_path / 'more/a.JPG'),
        str(tmp_path / 'more/deep/b.png'),
    ]
    assert tuple(data[5]['inputs'].shape) == (3, 40, 60)


def test_pictures_of_a_segmentor_come_with_every_pixel_ignored(tmp_path):
    config = shapes_config(tmp_path / 'shapes', tmp_path / 'work')
    leaf = config['train_dataloader']['dataset']
    leaf['indices'] = 2
    leaf['pipeline'].insert(-1, dict(type='RandomCrop', crop_size=(32, 32), cat_max_ratio=0.75))
    config['train_dataloader']['dataset'] = dict(type='ConcatDataset', datasets=[leaf])
    config = with_unlabelled(config, 'rest')
    with DefaultScope.overwrite_default_scope('mmseg'):
        data = DATASETS.build(config.train_dataloader.dataset)
        sample = data[3]['data_samples']
    assert (len(data), len(data.unlabelled)) == (2, 4)
    assert sample.metainfo[MARK] is False
    assert set(sample.gt_sem_seg.data.unique().tolist()) == {255}
    assert tuple(sample.gt_sem_seg.data.shape) == (1, 32, 32)


def test_a_pipeline_asks_for_no_objects(own_scope):
    load, boxes = dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)
    crop = dict(type='RandomCrop', crop_size=(8, 8))
    choice = dict(type='RandomChoice', transforms=[[crop], [dict(type='RandomFlip', prob=0.5)]])
    found = without_annotations(
        [load, boxes, dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1)), choice]
    )
    assert found[:2] == [load, boxes] and len(found) == 3
    assert found[2]['transforms'][0] == [dict(crop, allow_negative_crop=True)]
    assert 'allow_negative_crop' not in crop


def batches(config: Config, epoch: int = 0) -> list[list[int]]:
    loader = Runner.build_dataloader(copy.deepcopy(config.train_dataloader), seed=5)
    loader.batch_sampler.sampler.set_epoch(epoch)
    return list(loader.batch_sampler)


@pytest.mark.parametrize(('ratio', 'number'), [(1.0, 2), (0.1, 1), (2.5, 5)])
def test_batches_keep_their_labelled_images_and_get_others(
    digits_root, tmp_path, own_scope, ratio, number
):
    config = detection(digits_root, tmp_path, ratio=ratio)
    config.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=True)
    plain = base_config(digits_root, tmp_path)['train_dataloader']
    plain['dataset']['indices'] = [0, 3, 6, 9]
    plain = Config(dict(train_dataloader=plain | dict(sampler=config.train_dataloader.sampler)))
    found, again = batches(config), batches(config)
    assert found == again != batches(config, epoch=1)
    assert [batch[:2] for batch in found] == batches(plain)
    assert all(len(b) == 2 + number and min(b[2:]) >= 4 and max(b) < 12 for b in found)
    beside = [index for batch in found for index in batch[2:]]
    assert len(set(beside[:8])) == min(8, len(beside))  # none twice before all were there


def test_ranks_draw_other_images(digits_root, tmp_path, own_scope, monkeypatch):
    config = detection(digits_root, tmp_path)
    found = []
    for rank in range(2):
        monkeypatch.setattr('mmengine.dist.get_rank', lambda rank=rank: rank)
        monkeypatch.setattr('mmengine.dist.get_world_size', lambda: 2)
        sampler = Runner.build_dataloader(copy.deepcopy(config.train_dataloader), seed=5)
        batch = [b[2:] for b, _ in zip(sampler.batch_sampler, range(2), strict=False)]
        found.append({index for each in batch for index in each})
    assert len(found[0] | found[1]) == 8


def test_groups_of_one_aspect_stay_and_the_plain_student_has_none_of_it(digits_root, tmp_path):
    config = base_config(digits_root, tmp_path)
    config['train_dataloader']['batch_sampler'] = dict(type='AspectRatioBatchSampler')
    before = Config(copy.deepcopy(config)).train_dataloader
    config = with_unlabelled(config, str(digits_root))
    assert config.train_dataloader.batch_sampler.batch_sampler == before.batch_sampler
    assert plain_student(config).train_dataloader == before


def test_a_check_tells_how_many_have_no_labels():
    model = build(distiller(losses=BOTH, unlabelled_weight=1.0))
    section = Section('')
    examine_batch(model.student, raw('GFL', (True, False, True)), section)
    told = {line.item: line.cells for line in section.lines}
    assert told['without labels'] == ('1 of the images',)
    assert told['objects'][0].startswith('7 of')


def test_epochs_of_a_real_training_go_round_the_labelled_images(digits_root, tmp_path, monkeypatch):
    config = detection(digits_root, tmp_path)
    config.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=True)
    config.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=3)
    config.default_hooks.checkpoint = dict(type='CheckpointHook', interval=2)
    drawn, show = [], WithUnlabelled.__getitem__

    def noting(self, index):
        drawn.append(index)
        return show(self, index)

    monkeypatch.setattr(WithUnlabelled, '__getitem__', noting)
    runner = Runner.from_cfg(config)
    runner.train()
    assert runner.iter == 4  # of two labelled images each
    labelled = [index for index in drawn if index < 4]
    assert len(drawn) == 16
    assert sorted(labelled[:4]) == sorted(labelled[4:]) == [0, 1, 2, 3]
    values = runner.message_hub.log_scalars['train/loss_kd_pkd_unlabelled'].data[0]
    assert len(values) == 4 and all(0 < value < 10 for value in values)


def test_a_fingerprint_tells_which_images_and_which_weights_of_a_teacher(digits_root, tmp_path):
    folder, weights = tmp_path / 'more', tmp_path / 'w.pth'
    folder.mkdir()
    cv2.imwrite(str(folder / 'a.png'), np.zeros((8, 8, 3), np.uint8))
    weights.write_bytes(b'1')
    config = detection(digits_root, tmp_path, str(folder))
    config.model.teacher = dict(type='kd_dense.FeatureTeacher', model={}, weights=str(weights))
    found = [fingerprint(config, {})]
    assert is_whole(config)
    weights.write_bytes(b'2')
    found.append(fingerprint(config, {}))
    cv2.imwrite(str(folder / 'b.png'), np.zeros((8, 8, 3), np.uint8))
    found += [fingerprint(config, {})] * 2
    assert len(set(found)) == 3
    config.model.teacher.weights = 'own'
    assert is_whole(config)
    config.model.teacher.weights = 'gone.pth'
    assert not is_whole(config)
