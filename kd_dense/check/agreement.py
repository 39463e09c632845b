"""Whether teachers and student agree in what the losses compare, and each with itself."""

from __future__ import annotations

from torch import nn

from ..hosts.checkpoints import STUDENT
from ..pair import objections, unmet, what_to_do
from ..views import OneStageView, TwoStageView, probe, view_class
from .built import Built
from .findings import Section

UNKNOWN = ('', 'none', 'unknown')
ITEMS = {
    'family': 'family',
    'head': 'head',
    'strides': 'strides',
    'activation': 'class scores',
    'num_anchors': 'per position',
    'anchors': 'anchors',
    'boxes': 'boxes',
    'roi_scores': 'class scores of proposals',
    'roi_boxes': 'boxes of proposals',
}
SHOWN = {*ITEMS, 'num_levels', 'num_classes'}  # here, with the strides, and among the classes
LONG = 25  # characters of a cell that is not shown twice
PICTURE = 256  # pixels, of the picture that is shown to count levels


def examine_pair(built: Built, section: Section) -> None:
    """Compare what all models tell about themselves, and ask the losses."""
    roles = section.columns = (STUDENT, *built.teachers, *built.peers)
    known = [built.infos[role] for role in roles if role in built.infos]
    strides = list(dict.fromkeys(_text(info.strides) for info in known))
    heads = ' and '.join(info.head for info in known)
    section.summary = f'{heads}, strides {" and ".join(strides)}'
    differences = {name: built.differences(name) for name in built.teachers}
    differ = any(differences.values())
    way_out = '' if built.student is None else what_to_do(built.student)
    # views of other hosts may compare more
    more = {k: words for info in known for k, words in info.compared().items() if k not in SHOWN}
    for what, item in (ITEMS | more).items():
        cells = [_text(getattr(built.infos.get(role), what, '')) for role in roles]
        if all(text in UNKNOWN for text in cells):
            continue
        if len(set(cells)) == 1 and len(cells[0]) > LONG:
            cells[1:] = ['the same'] * (len(cells) - 1)
        fields = ('strides', 'num_levels') if what == 'strides' else (what,)
        minded = {
            name: [each for each in found if each.what in fields][:1]
            for name, found in differences.items()
        }
        problems = [built.item(f'The {d}.', name) for name, found in minded.items() for d in found]
        losses = [loss for found in minded.values() for each in found for loss in each.losses]
        told = {'losses': losses} if losses else {}
        section.tell(item, *cells, problem=' '.join(problems), way_out=way_out, **told)
    for role, model in built.models.items():
        _levels(role, model, section)
        _background(role, model, section)
    if STUDENT in built.infos:
        for name, teacher in built.teachers.items():
            for each, loss in built.losses_of(name).items():
                found = unmet(built.student, each, loss)
                if name in built.infos:
                    found = found or objections(teacher, each, loss, told=differ)
                for problem in found:
                    section.tell(f'losses.{each}', problem=problem, way_out=way_out)


def _levels(role: str, model: nn.Module, section: Section) -> None:
    """Whether a detector's head is made for the feature maps that it gets."""
    view = view_class(model)
    if view not in (OneStageView, TwoStageView):
        return
    tried = Section('')  # a backbone made for one size of pictures may refuse this one
    with tried.collect_errors('levels'):
        seen = probe(model, view, PICTURE)
    if tried.lines:
        section.skipped(f'{role}: levels', tried.lines[0].problem)
        return
    expected, sizes = seen.strides, [width for _, width in seen.level_sizes]
    if any(PICTURE % stride for stride in expected):  # SSD's last levels
        return
    if [max(1, PICTURE // stride) for stride in expected] != sizes:
        found = tuple(PICTURE // size for size in sizes)
        section.tell(
            f'{role}: levels',
            problem=f'The head of the {role} is made for strides {_text(expected)}, its backbone '
            f'and neck give maps of strides {_text(found)}.',
            way_out="Set `neck.num_outs`, `neck.start_level` and the strides of the head's anchor "
            'generator so that they agree.',
        )


def _background(role: str, model: nn.Module, section: Section) -> None:
    """Whether class scores by softmax have a place for the background, and others none."""
    view = view_class(model)
    if view is OneStageView:
        head = model.bbox_head
        outputs, softmax = head.cls_out_channels, not head.use_sigmoid_cls
    elif view is TwoStageView:
        head, softmax = view.box_head_of(model), True
        scores = getattr(head, 'fc_cls', None)
        if not isinstance(scores, nn.Linear) or head.custom_cls_channels:
            return
        outputs = scores.out_features
    else:  # of a segmentor the background is a class like any other
        return
    expected = head.num_classes + softmax
    if outputs != expected:
        kind = 'softmax' if softmax else 'sigmoid'
        section.tell(
            f'{role}: background',
            problem=f'The head of the {role} scores {head.num_classes} classes by {kind} and has '
            f'{outputs} outputs; {expected} were expected, '
            + ('with one for the background.' if softmax else 'the background has none.'),
            way_out='Use a head whose `cls_out_channels` is the number of classes for sigmoid, and '
            'one more for softmax.',
        )


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ' '.join(f'{each:g}' for each in value)
    return str(value)
