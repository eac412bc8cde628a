"""Training: one loop, a generator, that goes on where it stopped.

loop         train: every step is yielded
plan         how to train: rate, blocks, patterns; the number format for a processor
data         blocks of crystals with their simulated patterns
state        a run, and everything to go on with it bit for bit
log          a line of CSV for every step
step         one step of the optimiser
parallel     several processes on one run
pairs        patterns and crystals as vectors of one space, after pretraining
validation   losses and match rates of held-out crystals
"""

from xrdkit.train.loop import train
from xrdkit.train.plan import Plan

__all__ = ["Plan", "train"]
