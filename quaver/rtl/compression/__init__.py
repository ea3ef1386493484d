"""AdaComp in hardware: the twins of `quaver.golden.compression`."""
