"""Whether teacher and student agree in what the losses compare, and each with itself."""

from __future__ import annotations

from torch import nn

from ..pair import differences, unmet
from ..views import OneStageView, SegmentationView, TwoStageView, probe, view_class
from .parts import Hosts, Parts
from .report import Section

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
LONG = 25  # characters of a cell that is not shown twice
PICTURE = 256  # pixels, of the picture that is shown to count levels


def examine_pair(parts: Parts, hosts: Hosts, section: Section) -> None:
    """Compare what both models tell about themselves, and ask the losses.

    Args:
        parts, hosts: the models, and what they tell of themselves.
        section: where to tell.
    """
    section.columns = ('student', 'teacher')
    minded = {}
    if hosts.student and hosts.teacher:
        found = differences(parts.student, hosts.teacher, parts.losses, parts.teacher.same_classes)
        minded = {each.what: each for each in found}
        section.summary = f'{hosts.student.head} and {hosts.teacher.head}, ' + (
            f'strides {_text(hosts.student.strides)}'
            if hosts.student.strides == hosts.teacher.strides
            else f'strides {_text(hosts.student.strides)} and {_text(hosts.teacher.strides)}'
        )
    if 'num_levels' in minded:  # shown with the strides
        minded.setdefault('strides', minded['num_levels'])
    for what, item in ITEMS.items():
        shown = tuple(
            _text(getattr(host, what)) if host else '' for host in (hosts.student, hosts.teacher)
        )
        if all(text in UNKNOWN for text in shown):
            continue
        if shown[0] == shown[1] and len(shown[0]) > LONG:
            shown = (shown[0], 'the same')
        if what in minded:
            section.wrong(
                item,
                *shown,
                problem=f'The {minded[what]}.',
                way_out='Choose a teacher that agrees with the student there, or leave out the '
                'losses named; losses on features ask the least of a pair: hints '
                '(FeatureImitation) and PKD (PearsonDistillation).',
                losses=minded[what].losses,
            )
        else:
            section.ok(item, *shown)
    for role, model in parts.models().items():
        if model is not None:
            _levels(role, model, section)
            _background(role, model, section)
    if parts.student is not None and hosts.student is not None:
        for name, loss in parts.losses.items():
            for problem in unmet(parts.student, name, loss):
                section.wrong(f'losses.{name}', problem=problem)


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
        section.wrong(
            f'{role}: levels',
            problem=f'The head of the {role} is made for strides {_text(expected)}, its backbone '
            f'and neck give maps of strides {_text(found)}.',
            way_out="Set `neck.num_outs`, `neck.start_level` and the strides of the head's anchor "
            'generator so that they agree.',
        )


def _background(role: str, model: nn.Module, section: Section) -> None:
    """Whether class scores by softmax have a place for the background, and others none."""
    view = view_class(model)
    if view is SegmentationView:  # there the background is a class like any other
        return
    outputs = None
    if view is OneStageView:
        head = model.bbox_head
        classes, outputs, softmax = (
            head.num_classes,
            head.cls_out_channels,
            not head.use_sigmoid_cls,
        )
    elif view is TwoStageView and isinstance(
        getattr(model.roi_head.bbox_head, 'fc_cls', None), nn.Linear
    ):
        head = model.roi_head.bbox_head
        classes, outputs, softmax = head.num_classes, head.fc_cls.out_features, True
        if head.custom_cls_channels:
            return
    if outputs is None:
        return
    expected = classes + softmax
    if outputs != expected:
        kind = 'softmax' if softmax else 'sigmoid'
        section.wrong(
            f'{role}: background',
            problem=f'The head of the {role} scores {classes} classes by {kind} and has {outputs} '
            f'outputs; {expected} were expected, '
            + ('with one for the background.' if softmax else 'the background has none.'),
            way_out='Use a head whose `cls_out_channels` is the number of classes for sigmoid, and '
            'one more for softmax.',
        )


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ' '.join(f'{each:g}' for each in value)
    return str(value)
