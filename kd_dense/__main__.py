"""``python -m kd_dense COMMAND ...`` is ``kd-dense COMMAND ...``."""

from .commands import main

main()
