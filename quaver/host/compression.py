"""Gradient compression on an accelerator: `Compresses` of `quaver.golden.engine`, by its driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from quaver.golden.compression import AdaComp, Packet, Values, mean
from quaver.golden.compression.packet import element_bytes
from quaver.golden.descriptor import Descriptor
from quaver.host.driver import Driver
from quaver.host.transport import NO_WORDS, Command, DeviceError, Words
from quaver.rtl.commands import MAX_LENGTH, CompressionArguments, Opcode, Status

#: The most words of a layer in one COMPRESS or AVERAGE: even, for pairs.
_LAYER_WORDS = MAX_LENGTH - 3


def compress(
    driver: Driver, rule: AdaComp, residue: Values, gradient: Values, **where: int
) -> tuple[Packet, Values]:
    """The packet, and the new residue: bit for bit those of `rule.compress`, which says what `where` is.

    Raises
    ------
    TypeError, ValueError
        As `rule.compress` raises them.
    DeviceError, TimeoutError
        The device has no unit for such bins or so long a layer. Or it did not do as told; then it is reset,
        as it is when the call is interrupted.
    """
    old, new = rule.check(residue, gradient)
    if not old.size:
        return rule.compress(residue, gradient, **where)
    check(driver.compression, rule.bin_length, len(old))
    sums, elements, summary = [NO_WORDS], [NO_WORDS], NO_WORDS

    def take(words: Words, parts: dict[Status, Words]) -> None:
        nonlocal summary
        sums.append(parts[Status.RESIDUES])
        elements.append(parts[Status.PACKET])
        summary = words

    data = np.stack([old, new], axis=1).reshape(-1).view(np.uint32)
    driver.run(_layer(Opcode.COMPRESS, rule.bin_length, [len(old)], data, take))
    (scale,) = summary[:1].view(np.float32)
    if np.isnan(scale):
        return rule.not_finite(len(old), where), old.reshape(np.shape(residue)).copy()
    halves = np.concatenate(elements).astype("<u4").view("<u2")
    packed = halves[: summary[1]].astype(f"u{element_bytes(rule.bin_length)}")
    packet = Packet(len(old), rule.bin_length, float(scale), packed, **where)
    kept = _add(driver, packet, -scale, np.concatenate(sums))
    return packet, kept.view(np.float32).reshape(np.shape(residue))


def average(driver: Driver, packets: Sequence[Packet]) -> Values:
    """The average of what learners send of one layer, flat: bit for bit `quaver.golden.compression.mean`.
    DeviceError, TimeoutError: as of `compress`."""
    length = packets[0].length
    if not length:
        return mean(packets)
    if not all(packet.is_finite for packet in packets):
        return np.full(length, np.nan, np.float32)
    sums = np.zeros(length, np.uint32)
    for packet in packets:
        check(driver.compression, packet.bin_length, length)
        with np.errstate(under="ignore"):
            share = np.float32(packet.scale) / np.float32(len(packets))
        sums = _add(driver, packet, share, sums)
    return sums.view(np.float32)


def check(device: Descriptor | None, bin_length: int, length: int = 1) -> None:
    """DeviceError: a device that says `device` of its unit compresses no such layer."""
    if device is None or device.name != "adacomp":
        raise DeviceError(
            f"the device compresses {device or 'nothing'}, but adacomp is asked for; take a board of quaver "
            f"build --compression adacomp, or --engine sim"
        )
    longest, bits = (int(device.parameters[name]) for name in ("longest", "count_bits"))
    if bin_length > longest or length >= 1 << bits:
        enough = f"longest={max(bin_length, longest)}, count_bits={max(length.bit_length(), bits)}"
        raise DeviceError(
            f"a layer of {length:,} elements in bins of {bin_length:,} is asked for, but the device "
            f"compresses up to {(1 << bits) - 1:,} in bins of up to {longest:,}; build it for more: quaver "
            f"build --compression 'adacomp({enough})'"
        )


def _add(driver: Driver, packet: Packet, share: np.float32, sums: Words) -> Words:
    """Sums with what a packet adds to them, `share` for each of its elements that says plus."""
    needed, found = packet.needed(), [NO_WORDS]
    pairs = np.append(packet.elements, np.zeros(len(needed) % 2, packet.elements.dtype)).astype("<u2")
    data = np.insert(sums, needed[::2], pairs.view("<u4"))

    def take(words: Words, parts: dict[Status, Words]) -> None:
        found.append(parts[Status.SUMS])

    settings = [len(sums), int(share.view(np.uint32))]
    driver.run(_layer(Opcode.AVERAGE, packet.bin_length, settings, data, take))
    return np.concatenate(found)


def _layer(
    opcode: Opcode, bin_length: int, settings: list[int], data: Words, take: Callable[..., None]
) -> Iterator[Command]:
    """The commands of one layer."""
    for start in range(0, len(data), _LAYER_WORDS):
        arguments = CompressionArguments.pack(bin_length=bin_length, first=start == 0)
        words = [arguments, *(settings if start == 0 else [])]
        yield opcode, words, data[start : start + _LAYER_WORDS], take
