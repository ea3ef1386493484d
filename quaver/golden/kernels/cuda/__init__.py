"""The CUDA kernels: the third fast kernel beside scalar and vector, from codes to codes.

The ``.cu`` files are CUDA C++ without includes. `source` puts the constants of an arithmetic, a format or an
update rule before them, `calls` says what is launched; both without a GPU. Who compiles and runs is a
`machine.Machine`: NVRTC and a GPU (`quaver.torch.cuda`), or g++ and this processor (`quaver.sim.cuda`), by
which every kernel is held to golden where there is no GPU.
"""
