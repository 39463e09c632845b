"""Distil a small model from a large one on handwritten digits, and show that it helped.

python tools/demo.py                # a detector, by localization distillation
python tools/demo.py segmentation   # a segmentor, by structured distillation

Builds the embedded dataset, trains the teacher, the student alone and the student taught by the
teacher, and prints what came out. What is done is skipped, what was interrupted goes on.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from demo_stages import Stage, Task, train_all

ROOT = Path(__file__).resolve().parents[1]


TAUGHT = (
    'model.teacher.checkpoint={teacher}',
    'custom_hooks.DistillationPictureHook.alone={student}',
)


def stages(
    teacher: tuple[str, float], student: tuple[str, float], distilled: tuple[str, float]
) -> tuple[Stage, ...]:
    """The three stages of a demo, from the config of each and its minutes."""
    taught = 'the student, taught by the teacher'
    return (
        Stage('teacher', 'the teacher', *teacher),
        Stage('student', 'the student alone', *student),
        Stage('distilled', taught, *distilled, TAUGHT, ('teacher', 'student')),
    )


TASKS = {
    'detection': Task(
        folder=Path('work_dirs/demo'),
        product='the small detector, for plain mmdet',
        minutes=10,
        metrics={'AP': 'coco/bbox_mAP', 'AP50': 'coco/bbox_mAP_50', 'AP75': 'coco/bbox_mAP_75'},
        decimals=3,
        stages=stages(
            teacher=('configs/digits/gfl_r18-half_digits.py', 6),
            student=('configs/digits/gfl_r18-quarter_digits.py', 3),
            distilled=('configs/digits/ld_gfl_r18-quarter_digits.py', 3),
        ),
        data=Path('data/digits'),
        variable='DIGITS_ROOT',
    ),
    'segmentation': Task(
        folder=Path('work_dirs/demo-seg'),
        product='the small segmentor, for plain mmseg',
        minutes=13,
        metrics={'mIoU': 'mIoU', 'aAcc': 'aAcc'},
        decimals=2,
        stages=stages(
            teacher=('configs/digits/pspnet_r18-half_digits-seg.py', 7),
            student=('configs/digits/pspnet_r18-quarter_digits-seg.py', 3),
            distilled=('configs/digits/structured_pspnet_r18-quarter_digits-seg.py', 5),
        ),
        data=Path('data/digits_seg'),
        variable='DIGITS_SEG_ROOT',
        # scenes that a small segmentor learns within minutes
        scenes=(
            *('--size', '96', '--digits', '2', '5', '--height', '28', '64', '--rotation', '10'),
            *('--slant', '0.2', '--clutter', '0.3', '--distractors', '0', '3'),
            *('--stroke', '0.2', '0.35', '--contrast', '0.3', '0.7'),
        ),
    ),
}


def build_digits(task: Task) -> None:
    """Build the dataset where it is not there."""
    print('1/4 building the dataset: handwritten digits in scenes, about half a minute', flush=True)
    command = [sys.executable, 'tools/make_digits.py', str(task.data), *task.scenes]
    if subprocess.run(command).returncode:
        raise SystemExit('demo: the dataset could not be built, see above.')


def parameters(checkpoint: Path) -> float:
    """Millions of weights in the plain model of a checkpoint."""
    from kd_dense.hosts.checkpoints import model_state, read_checkpoint

    state = model_state(read_checkpoint(checkpoint, 'model'))
    buffers = ('running_mean', 'running_var', 'num_batches_tracked', 'integral.project')
    return sum(v.numel() for k, v in state.items() if not k.endswith(buffers)) / 1e6


def report(task: Task, results: dict[str, dict]) -> None:
    """Print the table."""
    from kd_dense.text_table import text_table

    teacher, alone, taught = (
        results[name][task.main_metric] for name in ('teacher', 'student', 'distilled')
    )
    rows = []
    for stage in task.stages:
        result = results[stage.name]
        size = f'{parameters(task.checkpoint(stage.name)):.2f} M'
        values = (f'{result[key]:.{task.decimals}f}' for key in task.metrics.values())
        gain = f'{taught - alone:+.{task.decimals}f}' if stage.name == 'distilled' else ''
        rows.append((stage.title, size, *values, gain, f'{result["minutes"]:.1f}'))
    header = ('model', 'parameters', *task.metrics, 'gain', 'minutes')
    print('', *text_table(rows, header, right=True), sep='\n')
    if taught > alone and teacher > alone:
        share = (taught - alone) / (teacher - alone)
        print(f'\nDistillation closed {share:.0%} of the gap between student and teacher.')
    else:
        print('\nDistillation did not help here.')


def draw(task: Task) -> None:
    """Draw the curves, and say where the pictures are."""
    curves = task.folder / 'curves.png'
    command = [sys.executable, 'tools/plot.py', *(str(task.folder / s.name) for s in task.stages)]
    subprocess.run([*command, '--out', str(curves)], check=True, capture_output=True)
    pictures = (task.folder / 'distilled' / 'pictures').glob('*.png')
    print('pictures:')
    for path in [*sorted(pictures, key=os.path.getmtime)[-1:], curves]:
        print(f'  {path}')
    taught = task.checkpoint('distilled')
    print(f'{task.product}:\n  {taught.with_stem(taught.stem + "_student")}')


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('task', nargs='?', choices=TASKS, default='detection')
    task = TASKS[parser.parse_args().task]
    os.chdir(ROOT)
    os.environ['PYTHONPATH'] = str(ROOT)
    print(f'The whole demo takes about {task.minutes} minutes on two cores. Interrupt it whenever '
          'you like.')  # fmt: skip
    build_digits(task)
    results = train_all(task)
    report(task, results)
    draw(task)


if __name__ == '__main__':
    main()
