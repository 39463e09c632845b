"""What a store gives back of a batch is what the teacher said of each of its pictures."""

import copy
import gc
import weakref

import pytest
import torch

from kd_dense import FeatureImitation, LocalizationDistillation, SoftTargets
from kd_dense.errors import SetupError
from kd_dense.losses import (
    BinaryDistillation,
    ChannelWise,
    PearsonDistillation,
    PixelWise,
)
from kd_dense.losses.regions import REGIONS
from kd_dense.store import Kept
from kd_dense.teachers import FrozenTeacher
from kd_dense.views import OneStageView
from tests.helpers import segmentation
from tests.helpers.models import gfl
from tests.helpers.pairs import BOXES, HOSTS, batch_for, build, noted, raw
from tests.test_store.stores import alone, answer, seen

SAME = ((128, 160), (120, 130))  # one canvas for both
WHOLE = ('features', 'cls_logits', 'box_logits')
# convolutions of one picture and of two together differ in the last bits
EXACT = dict(float32=5e-6, float16=1e-3)


def both(kept, sizes=SAME, boxes=BOXES, config=None):
    """The student's view, and the teacher's live and as stored."""
    student, teacher = build(config or gfl(), 0), build(config or gfl(), 1)
    batch = batch_for(student, sizes, boxes)
    ours = noted(student, batch)

    def chosen(image, own):
        view = noted(student, own)
        return torch.stack([REGIONS[name](view, view) for name in kept.regions]).any(dim=0)

    answer(batch, teacher, kept, chosen if kept.regions else None)
    return ours, OneStageView(teacher, batch, torch.no_grad), seen(batch, ours, kept)


@pytest.mark.parametrize('dtype', EXACT)
@pytest.mark.parametrize(
    ('loss', 'kept'),
    [
        (LocalizationDistillation('main'), Kept(('box_logits',), ('main', 'vlr'))),
        (LocalizationDistillation('vlr'), Kept(('box_logits',), ('main', 'vlr'))),
        (SoftTargets(2, region='main'), Kept(('cls_logits',), ('main',))),
        (SoftTargets(2, region='box'), Kept(('cls_logits',), ('box',))),
        (LocalizationDistillation('all'), Kept(('box_logits', 'cls_logits'))),
        (SoftTargets(region='general'), Kept(('box_logits', 'cls_logits'))),
        (BinaryDistillation(), Kept(('cls_logits',))),
        (FeatureImitation(region='main'), Kept(('features',))),
        (PearsonDistillation(), Kept(('features',))),
        (ChannelWise(('levels',)), Kept(('features',))),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, torch.nn.Module) else '',
)
def test_losses_are_those_of_the_running_teacher(loss, kept, dtype):
    kept = Kept(kept.reads, kept.regions, dtype=dtype)
    student, live, stored = both(kept)
    loss = copy.deepcopy(loss)
    loss.connect(student.model, FrozenTeacher.of(live.model))
    expected, found = (loss(student, teacher).item() for teacher in (live, stored))
    assert expected > 0
    assert found == pytest.approx(expected, rel=EXACT[dtype])


@pytest.mark.parametrize('host', HOSTS)
@pytest.mark.parametrize('regions', [(), ('main',)])
def test_a_picture_on_another_canvas_keeps_its_own_answer(host, regions):
    """As the teacher sees it alone; the batch pads it further."""
    sizes = ((128, 224), (90, 120))
    kept = Kept(WHOLE, regions, dtype='float32')
    student, live, stored = both(kept, sizes, config=HOSTS[host]())
    for image in range(2):
        own = OneStageView(live.model, alone(student.batch, image), torch.no_grad)
        for read in WHOLE:
            for level, expected in enumerate(getattr(own, read)):
                h, w = expected.shape[-2:]
                found = getattr(stored, read)[level][image, :, :h, :w]
                if kept.whole(read):
                    torch.testing.assert_close(found, expected[0])
                    continue
                known = stored.known(read)[image : image + 1].expand(2, -1)
                at = student.positions(known)[level][0][:h, :w]
                torch.testing.assert_close(found[:, at], expected[0][:, at])
    assert all(a.shape == b.shape for a, b in zip(stored.cls_logits, live.cls_logits, strict=True))
    if regions:
        assert torch.equal(stored.known('cls_logits'), at_positions(student))


def at_positions(student):
    """The main region, with all anchors of its positions."""
    positions = student.positions(REGIONS['main'](student, student))
    flat = torch.cat([each.flatten(1) for each in positions], dim=1)
    return flat.repeat_interleave(student.num_anchors, dim=1)


def test_pictures_without_objects_have_nothing_to_compare():
    kept = Kept(('box_logits',), ('main', 'vlr'))
    student, _, stored = both(kept, boxes=((), ()))
    assert not stored.known('box_logits').any()
    assert float(LocalizationDistillation('main')(student, stored)) == 0


def test_a_loss_at_positions_that_are_not_kept_is_refused():
    student, _, stored = both(Kept(('box_logits', 'cls_logits'), ('main',)))
    with pytest.raises(SetupError, match=r'does not hold \d+ of the \d+ predictions'):
        LocalizationDistillation('vlr')(student, stored)


def test_what_is_not_kept_is_not_computed_by_the_student_either():
    _, _, stored = both(Kept(('box_logits',)))
    for read in ('cls_logits', 'features', 'backbone_features'):
        with pytest.raises(SetupError, match='is not in the store store; it holds box_logits'):
            getattr(stored, read)


@pytest.mark.parametrize('best', [5, 10_000])
def test_the_surest_positions_are_kept_and_of_the_others_the_mean_score(best):
    kept = Kept(('cls_logits',), best=best, dtype='float32')
    student, live, stored = both(kept)
    assert stored.known('cls_logits') is None
    found, expected = stored.flat_cls_logits, live.flat_cls_logits
    valid = student.valid
    for image in range(2):
        f, e = found[image][valid[image]], expected[image][valid[image]]
        if best > len(e):
            torch.testing.assert_close(f, e)
            continue
        surest = e.sigmoid().amax(dim=1).topk(best).indices
        torch.testing.assert_close(f[surest], e[surest])
        others = torch.ones(len(e), dtype=torch.bool).index_fill(0, surest, False)
        torch.testing.assert_close(
            f[others].sigmoid().mean(0), e[others].sigmoid().mean(0), rtol=1e-3, atol=1e-6
        )


def test_numbers_too_large_for_the_type_are_refused():
    teacher = build(gfl(), 1)
    with torch.no_grad():
        teacher.bbox_head.gfl_cls.bias.fill_(1e6)
    batch = batch_for(teacher)
    with pytest.raises(SetupError, match=r'float16 cannot\. Keep them as --dtype bfloat16'):
        answer(batch, teacher, Kept(('cls_logits',)))
    answer(batch, teacher, Kept(('cls_logits',), dtype='bfloat16'))
    with torch.no_grad():
        teacher.bbox_head.gfl_cls.bias.fill_(float('nan'))
    with pytest.raises(SetupError, match='not finite'):
        answer(batch, teacher, Kept(('cls_logits',), dtype='bfloat16'))


@pytest.mark.parametrize('dtype', EXACT)
@pytest.mark.parametrize(
    ('loss', 'reads'),
    [
        (PixelWise(), ('seg_logits',)),
        (PixelWise(part='auxiliary'), ('aux_logits',)),
        (ChannelWise(('logits',)), ('seg_logits',)),
        (ChannelWise(('head',)), ('head_features',)),
        (ChannelWise(('backbone.1',)), ('backbone_features',)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, torch.nn.Module) else '',
)
def test_segmentors(loss, reads, dtype):
    """All crops have one canvas: of a batch, what is stored is what is said live."""
    kept = Kept(reads, dtype=dtype)
    student, teacher = segmentation.pair()
    ours, live = segmentation.views(student, teacher)
    batch = ours.batch
    answer(batch, teacher, kept, singles=False)
    for image, sample in enumerate(batch.samples):  # each its own row of the batch
        for key, value in sample.stored.items():
            assert value.dim() == 3
            own = getattr(live, key.split('.')[0])
            own = own if torch.is_tensor(own) else own[int(key.split('.')[1])]
            sample.stored.set_field(own[image].to(value.dtype), key)
    stored = seen(batch, ours, kept)
    expected, found = (loss(ours, each).item() for each in (live, stored))
    assert expected > 0
    assert found == pytest.approx(expected, rel=EXACT[dtype])


def test_a_batch_of_raw_pictures_carries_its_records_to_the_device():
    """Through the data preprocessor, as in a training."""
    student, teacher = build(gfl(), 0), build(gfl(), 1)
    batch = batch_for(student)
    kept = Kept(('cls_logits',), dtype='bfloat16')
    answer(batch, teacher, kept)
    data = raw()
    for ours, theirs in zip(data['data_samples'], batch.samples, strict=True):
        ours.set_field(theirs.stored, 'stored')
    passed = student.data_preprocessor(data, True)
    for ours, theirs in zip(passed['data_samples'], batch.samples, strict=True):
        assert ours.stored.canvas == theirs.stored.canvas
        for key, value in theirs.stored.items():
            assert torch.equal(ours.stored.get(key), value)


def test_nothing_holds_the_graph_of_a_step_when_it_is_over():
    """Without waiting for the garbage collector: else each step's activations stay a while."""
    kept = Kept(('cls_logits', 'box_logits'), ('main', 'vlr'))
    student, live, stored = both(kept)
    LocalizationDistillation('main')(student, stored).backward()
    weak = weakref.ref(student), weakref.ref(stored)
    gc.disable()
    try:
        del student, live, stored
        assert [each() for each in weak] == [None, None]
    finally:
        gc.enable()
