"""Quaver: training neural networks in eight bits, from the equation to the bitstream."""
