"""The cocotb benches, one unit a file: VARIANTS names what is simulated, the cocotb test compares it with golden.

They run inside the simulator, where `sim.runner` starts them; `Bench` is their link to it.
"""
