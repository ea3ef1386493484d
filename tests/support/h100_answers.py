"""What an H100 80 GB answered: 608 values of its tensor cores, of each product that was measured.

The file beside this one has a line for each pair of operands: `name rows columns data`. FP8 products are by
torch._scaled_mm (torch 2.11, CUDA 13) with unit scales and float32 out, with and without use_fast_accum,
16-bit ones by torch.mm with float32 out. A name is of the operands' formats, K, and the kind of values:
ordinary numbers, exponents that reach far apart, sums that cancel, few numbers that are not zero. The outputs
are those, of 1,024 each, that tell most other units apart (other widths, groups, chunks, roundings), among
them zeros and ties. The data is base85 of zlib's: codes of A (rows, K), of B (columns, K), each its low
bytes first, and float32 answers (rows, columns), of FP8 without promotion and with it.
"""

from __future__ import annotations

import zlib
from base64 import b85decode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: The formats by the file's names, and the bytes of a code.
FORMATS = {"e4m3": ("e4m3", 1), "e5m2": ("fp8", 1), "bf16": ("bfloat16", 2), "fp16": ("half", 2)}


@dataclass(frozen=True)
class Product:
    """Operands and answers.

    Attributes
    ----------
    name
        As in the file.
    a, b
        Codes, (M, K) and (K, N).
    answers
        What `quaver.golden.arithmetic.named.named` takes → codes of float32, (M, N).
    """

    name: str
    a: NDArray[Any]
    b: NDArray[Any]
    answers: dict[str, NDArray[np.uint32]]


def _read(line: str) -> Product:
    name, m, n, text = line.split()
    rows, columns = int(m), int(n)
    *kinds, length, _ = name.split("_")
    (a, width), (b, _) = FORMATS[kinds[0]], FORMATS[kinds[-1]]
    units = ("hopper_fp8_fast", "hopper_fp8") if width == 1 else (f"hopper_{kinds[0]}",)
    data = zlib.decompress(b85decode(text))
    of_a, of_b = (int(length) * lines * width for lines in (rows, columns))
    answers = np.frombuffer(data, "<u4", offset=of_a + of_b).reshape(len(units), rows, columns)
    return Product(
        name,
        _codes(data[:of_a], width).reshape(rows, -1),
        _codes(data[of_a : of_a + of_b], width).reshape(columns, -1).T,
        {f"{unit}(a={a}, b={b})": codes for unit, codes in zip(units, answers, strict=True)},
    )


def _codes(planes: bytes, width: int) -> NDArray[Any]:
    return np.frombuffer(planes, np.uint8).reshape(width, -1).T.copy().view(f"<u{width}").ravel()


PRODUCTS = [_read(line) for line in Path(__file__).with_suffix(".txt").read_text("ascii").splitlines()]
