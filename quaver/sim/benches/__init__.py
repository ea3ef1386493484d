"""The cocotb benches, one unit a file: VARIANTS names what is simulated, a test compares it with golden.

They run inside the simulator, where `quaver.sim.runner` starts them; `Bench` is their link to it.
"""
