"""What is compared of a pair: all that the models tell of themselves."""

from dataclasses import dataclass, field

from kd_dense.check.agreement import examine_pair
from kd_dense.check.built import Built
from kd_dense.check.findings import Section
from kd_dense.pair import Difference
from kd_dense.views import HostInfo


def test_what_a_view_of_other_hosts_compares_besides_is_shown(monkeypatch):
    @dataclass(frozen=True, kw_only=True)
    class WithDepth(HostInfo):
        depth: int = field(metadata=dict(words='depth of the pyramid'))

    told = dict(
        family='own', strides=(8.0,), num_classes=3, activation='sigmoid', boxes='', head='Own'
    )
    infos = {role: WithDepth(**told, depth=i) for i, role in enumerate(('student', 'teacher'))}
    differing = Difference('depth', 'depth of the pyramid', 0, 1, ['own'])
    monkeypatch.setattr(Built, 'differences', lambda built, name: [differing])
    section = Section('Pair')
    examine_pair(Built(infos=infos, teachers=dict(teacher=None)), section)
    (line,) = section.findings()
    assert (line.item, line.cells, line.data) == (
        'depth of the pyramid', ('0', '1'), dict(losses=['own'])
    )  # fmt: skip
