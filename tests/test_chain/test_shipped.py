"""The chain files that ship: they are read, and their demos fit their configs."""

from pathlib import Path

import pytest
from mmengine.config import Config

from kd_dense.chain import read_chain
from kd_dense.hosts.configs import leaf_datasets

ROOT = Path(__file__).parents[2]
CHAINS = sorted((ROOT / 'configs/chains').glob('*.py'))


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    digits = ('DIGITS', 'DIGITS_SEG', 'DIGITS_WITHOUT_THREE', 'DIGITS_SEG_WITHOUT_THREE')
    for name in ('AQUARIUM', 'CAMVID', *digits):
        monkeypatch.setenv(f'{name}_ROOT', str(tmp_path))


@pytest.mark.parametrize('file', CHAINS, ids=lambda path: path.stem)
def test_a_chain_file_is_read_and_says_how_to_run_it(file):
    name = file.relative_to(ROOT)
    assert f'\n# python tools/chain.py {name}\n' in file.read_text()
    chain = read_chain(file)
    assert chain.jobs
    assert all(job.config.train_cfg.get('max_iters') for job in chain.jobs)
    if any('unlabelled' in stage.about for stage in chain.stages.values()):
        _same_labels({job.name: job.config for job in chain.jobs})


def _same_labels(configs: dict[str, Config]) -> None:
    """Students with and without unlabelled images have the same labels: so few as is said."""
    for part, share in (('tenth', 0.1), ('quarter', 0.25)):
        names = (f'alone_{part}', part, f'{part}_unlabelled')
        alone, taught, both = (configs[f'{name}, seed 0'] for name in names)
        loader = both.train_dataloader
        assert (
            loader.dataset.type == 'kd_dense.WithUnlabelled' and loader.dataset.unlabelled is None
        )
        assert loader.dataset.dataset == taught.train_dataloader.dataset
        assert alone.train_dataloader == taught.train_dataloader
        assert (both.model.losses, both.train_cfg) == (taught.model.losses, taught.train_cfg)
        assert taught.model.get('unlabelled_weight') is None and both.model.unlabelled_weight == 1
        indices = [leaf.indices for leaf in leaf_datasets(taught.train_dataloader.dataset)]
        last = [each[-1] + each[1] for each in indices]  # all images lie before
        assert sum(map(len, indices)) == pytest.approx(share * sum(last), rel=0.05)


@pytest.mark.parametrize('name', ['demo', 'demo_seg'])
def test_the_student_of_a_demo_is_compared_with_itself_alone(name):
    chain = read_chain(f'configs/chains/{name}.py')
    jobs = {job.stage.name: job for job in chain.jobs}
    taught, alone = jobs['distilled'].config, jobs['student'].config
    assert taught.model.student == alone.model
    assert taught.train_cfg == alone.train_cfg
    assert taught.model.teacher == dict(config='{teacher.config}', checkpoint='{teacher}')
    (pictures,) = (h for h in taught.custom_hooks if h.type == 'kd_dense.DistillationPictureHook')
    assert pictures.alone == '{student}'
    # the data that the configs say how to build is the one that the chain builds
    (build,) = chain.settings['prepare']
    told = ''.join(p.read_text() for p in (ROOT / 'configs').rglob('digits*.py'))
    told = told.replace(' \\\n#    ', '')
    assert build.replace('kd-dense make-digits', 'tools/make_digits.py') in told


@pytest.mark.parametrize('name', ['omitted_digits', 'omitted_digits-seg'])
def test_an_omitted_class_is_in_no_scene_of_the_students_and_in_all_validations(name):
    chain = read_chain(f'configs/chains/{name}.py')
    complete, without = chain.settings['prepare']
    assert without.split()[2] == f'{complete.split()[2]}_without_three'
    scenes = without.replace('_without_three', '').replace(' --without three', '')
    assert scenes == complete  # but for the class the scenes are of one kind
    trained = {complete.split()[2]: set(), without.split()[2]: set()}
    for job in chain.jobs:
        assert job.config.val_dataloader.dataset.data_root == f'{complete.split()[2]}/'
        assert 'kd_dense.ClassMetricsHook' in [hook.type for hook in job.config.custom_hooks]
        trained[job.config.train_dataloader.dataset.data_root[:-1]].add(job.stage.name)
    assert set(trained[complete.split()[2]]) == {'teacher', 'labels_all'}
    shifts = {job.stage.name: job.class_bias for job in chain.jobs if job.class_bias}
    assert shifts['label_free'] == ('three', 'auto')
    assert shifts['validation'] == ('three', 'validation')
    models = [job.config.model for job in chain.jobs if 'labels' in job.stage.name]
    taught = next(job.config.model for job in chain.jobs if job.stage.name == 'student')
    assert all(model == taught.student for model in models) and taught.own_loss is False


def test_a_teacher_of_larger_images_was_trained_on_as_large_ones():
    jobs = {job.name: job for job in read_chain('configs/chains/larger_aquarium.py').jobs}
    sizes = {}
    for name in ('teacher_192', 'teacher_384', 'larger, seed 0', 'own_size, seed 0'):
        loaders = jobs[name].config.train_dataloader, jobs[name].config.val_dataloader
        train, val = (loader.dataset.pipeline for loader in loaders)
        (crop,) = (each.crop_size for each in train if each.type == 'RandomCrop')
        (shown,) = (each.scale for each in val if each.type == 'Resize')
        assert tuple(crop) == tuple(shown)
        sizes[name] = crop[0]
    teachers = {
        name: jobs[f'{name}, seed 0'].config.model.teacher for name in ('larger', 'own_size')
    }
    assert teachers['own_size'].get('scale', 1) == 1
    assert sizes['larger, seed 0'] * teachers['larger'].scale == sizes['teacher_384']
    assert sizes['own_size, seed 0'] == sizes['teacher_192']
