"""Networks: tensors in, tensors out.

encoder       pattern on the Q grid -> tokens and one embedding
crystal_net   crystals of equally many atoms, conditioned on them -> per atom, per crystal
lattice       cells as six numbers that suit a network
flow          flow matching: loss and sampling
diffusion     the same by diffusion
latent        crystals as points of a space that says their patterns: loss and sampling
regressor     the pattern that such a point says
latent_descent   down to where a pattern is said
cell_net      a pattern -> many primitive cells
density_net   a pattern -> an electron density anywhere in its cell
contrast      patterns and crystals in one space
generate      a prepared pattern and atoms -> crystals, checked
speed         number format and memory
weights       networks by name, file or address
checkpoint    settings and weights <-> safetensors
"""
