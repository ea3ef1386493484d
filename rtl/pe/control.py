"""What every processing element is told in a cycle."""

from amaranth.lib import data

#: What a cycle is. fold 0: partial[lane] += a·b. fold 1: total[lane] += partial[lane], then partial[lane] =
#: +0; with first, an output's first fold, total[lane] starts from +0.
CONTROL = data.StructLayout({"fold": 1, "first": 1})
