"""Training: one loop, a generator, that goes on where it stopped.

loop         train_flow: every step is yielded
plan         how to train: rate, blocks, patterns; the number format for a processor
data         blocks of crystals with their simulated patterns
state        a run, and everything to go on with it bit for bit
validation   losses and match rates of held-out crystals
"""
