"""Tables as plain lines: a line for each row, nothing cut off, colours only where asked for."""

from rich.text import Text

from kd_dense.text_table import text_table


def test_columns_are_aligned_and_nothing_is_cut_off():
    rows = [('a', '1.5'), ('[b]', '10', 'x' * 300), ('two\nlines',)]
    assert text_table(rows, ('', 'value'), right=True) == [
        '           value',
        'a            1.5',
        '[b]           10  ' + 'x' * 300,
        'two lines',
    ]


def test_colours_show_where_asked_for():
    rows = [(Text('wrong', 'red'), 'x')]
    assert text_table(rows) == ['wrong  x']
    assert text_table(rows, colour=True) == ['\033[31mwrong\033[0m  x']


def test_a_table_of_nothing_has_no_lines():
    assert text_table([]) == []
    assert text_table([], ('a', 'b')) == ['a  b']
