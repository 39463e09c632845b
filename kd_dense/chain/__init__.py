"""Chains: several trainings, of which the later ones need what the earlier ones have learned.

A chain file names stages; each is an ordinary config, with changes. ``kd-dense chain FILE`` trains
what is not done yet, goes on with what was interrupted, and tells in a table what came out.
"""

from .job import Job
from .plan import Chain, read_chain
from .rows import doubts, finished, summary
from .run import run_chain

__all__ = ['Chain', 'Job', 'doubts', 'finished', 'read_chain', 'run_chain', 'summary']
