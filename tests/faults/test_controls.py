"""What is not spoilt works: else the rows would show nothing."""

from tests.faults.world import call, train


def test_training(world):
    done = train(world)
    assert done.code == 0, done.text
    assert (world / 'work/iter_2.pth.sha256').is_file()
    done = call(world, 'test', 'ld.py', 'work/iter_2_student.pth', '--work-dir', 'w')
    assert done.code == 0, done.text


def test_segmentation(world):
    done = train(world, config='seg.py')
    assert done.code == 0, done.text


def test_check(world):
    done = call(world, 'check', 'ld.py', '--steps', '0')
    assert done.code == 0, done.text
