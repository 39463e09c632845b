"""Curves: what is drawn of what was logged."""

import math
from xml.etree import ElementTree

import pytest

from kd_dense.pictures.curves import FEW, Chart, Curve, as_svg, draw_curves


def lines(figure, index: int = 0) -> list:
    return figure.axes[index].lines


def test_each_training_is_a_line_of_its_colour_with_its_points():
    curves = [Curve('a', '#ff0000', [1, 2], [3.0, 4.0]), Curve('b', 'C1', [5], [6.0])]
    figure = draw_curves([Chart('AP', curves)])
    first, second = lines(figure)
    assert first.get_xydata().tolist() == [[1, 3], [2, 4]] and first.get_color() == '#ff0000'
    assert second.get_xydata().tolist() == [[5, 6]]
    assert figure.axes[0].get_title() == 'AP'
    assert [t.get_text() for t in figure.axes[0].get_legend().get_texts()] == ['a', 'b']


def test_what_is_not_finite_is_left_out():
    values = [1.0, math.nan, math.inf, 2.0]
    figure = draw_curves([Chart('x', [Curve('a', 'C0', [1, 2, 3, 4], values)])])
    assert lines(figure)[0].get_xydata().tolist() == [[1, 1], [4, 2]]


@pytest.mark.parametrize('values', [[], [math.nan], [3.0, 3.0]])
def test_nothing_and_constants_can_be_drawn(values):
    curve = Curve('a', 'C0', range(len(values)), values)
    figure = draw_curves([Chart('x', [curve], from_zero=True)])
    figure.canvas.draw()
    assert figure.axes[0].get_ylim()[0] == 0


def test_few_points_are_marked_and_many_are_not():
    curves = [Curve(str(n), 'C0', range(n), range(n)) for n in (FEW - 1, FEW)]
    assert [line.get_marker() for line in lines(draw_curves([Chart('x', curves)]))] == ['o', 'None']


def test_panels_fill_rows_and_the_rest_is_hidden():
    panels = [Chart(str(i), [Curve('a', 'C0', [0], [i])]) for i in range(4)]
    figure = draw_curves(panels, columns=3)
    assert [axes.get_visible() for axes in figure.axes] == [True] * 4 + [False] * 2
    assert [axes.get_legend() is not None for axes in figure.axes[:4]] == [True] + [False] * 3


def test_an_svg_is_whole_its_text_is_text_and_its_names_are_its_own():
    figure = draw_curves([Chart('', [Curve('a < b', '#123456', [1, 2], [3, 4])])])
    texts = [as_svg(figure, name) for name in ('one', 'two')]
    trees = [ElementTree.fromstring(text) for text in texts]
    ids = [{e.get('id') for e in tree.iter() if e.get('id')} for tree in trees]
    assert ids[0] and not ids[0] & ids[1]
    words = {e.text for e in trees[0].iter() if e.tag.endswith('text')}
    assert {'training step', 'a < b'} <= words
    assert '#123456' in texts[0]
