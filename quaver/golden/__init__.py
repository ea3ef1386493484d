"""What the numbers must be: formats, roundings, random bits, arithmetics, training. Knows no hardware."""

from quaver.golden.caches import prepare

prepare()
