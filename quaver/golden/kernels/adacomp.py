"""The loops of `quaver.golden.compression.adacomp` and of its packets, over one layer.

`elements` are those of a packet, uint8 or uint16: `index_bits` of index (6 or 14), then a bit for the sign,
then one for the last of its bin. The largest index says that bins are empty, as many as the two upper bits
plus one.
"""

from __future__ import annotations

import numpy as np
from numba import njit

#: What `compress` gives in place of a number of elements: something was not finite.
NOT_FINITE = -1


@njit(cache=True, nogil=True)
def compress(residue, gradient, bin_length, index_bits, pending, words, elements, sums):
    """Decide what is sent: the number of `elements`, and how many of them stand for sent values.

    `pending` gets G = residue + gradient; `words` is the same memory as int32. `sums[e]` gets the sum of the
    significands of those bins' maxima whose exponent field is e. `elements` has room for one more than
    there are of `residue`.
    """
    magnitude, infinity = np.int32(0x7FFFFFFF), np.int32(0x7F800000)
    bound = np.empty(1, np.float32)
    bound_word = bound.view(np.int32)
    reaches = np.zeros((bin_length + 7) // 8 * 8, np.uint8)
    eights = reaches.view(np.uint64)
    escape, last, negative = (1 << index_bits) - 1, 2 << index_bits, 1 << index_bits
    count = sent = empty = 0
    for start in range(0, len(residue), bin_length):
        # Plain loops over a bin that lies in the cache: each becomes vector instructions.
        d, r = gradient[start : start + bin_length], residue[start : start + bin_length]
        g, words_of_g = pending[start : start + bin_length], words[start : start + bin_length]
        for i in range(len(g)):
            g[i] = r[i] + d[i]
        largest = np.int32(0)
        for i in range(len(g)):
            largest = max(largest, np.int32(words_of_g[i] & magnitude))
        if largest >= infinity:
            return NOT_FINITE, 0
        field = largest >> 23
        sums[field] += (largest & 0x7FFFFF) + (0x800000 if field else 0)
        bound_word[0] = largest
        least, before = bound[0], count
        if largest:
            reaches[len(g) :] = 0
            reaching, infinite = np.int32(0), np.int32(0)
            for i in range(len(g)):
                ahead = abs(g[i] + d[i])
                reaches[i] = (ahead >= least) & (g[i] != 0)
                reaching += np.int32(reaches[i])
                infinite += np.int32(ahead == np.inf)
            if infinite:
                return NOT_FINITE, 0
            if reaching:
                while empty:
                    run = min(empty, 4)
                    elements[count] = escape | (run - 1) << index_bits
                    count, empty = count + 1, empty - run
                before, sent = count, sent + int(reaching)
                for eight in range((len(g) + 7) // 8):
                    if eights[eight]:
                        for i in range(8 * eight, min(8 * eight + 8, len(g))):  # no branch that none foresees
                            elements[count] = i | negative * (g[i] < 0)
                            count += reaches[i]
        if count == before:
            empty += 1
        else:
            elements[count - 1] |= last
    while empty:
        run = min(empty, 4)
        elements[count] = escape | (run - 1) << index_bits
        count, empty = count + 1, empty - run
    return count, sent


@njit(cache=True, nogil=True)
def scatter(elements, bin_length, index_bits, value, out):
    """Add `value`, with the sign of each sent element, to `out`; the elements are known to be whole."""
    escape = (1 << index_bits) - 1
    start = 0
    for element in elements:
        index = element & escape
        if index == escape:
            start += ((element >> index_bits) + 1) * bin_length
        else:
            out[start + index] += -value if element >> index_bits & 1 else value
            if element >> (index_bits + 1):
                start += bin_length


@njit(cache=True, nogil=True)
def places(elements, bin_length, index_bits, index, negative):
    """Where the sent elements lie in the layer, and whether each is −scale; the elements are known to be
    whole."""
    escape = (1 << index_bits) - 1
    start = count = 0
    for element in elements:
        if element & escape == escape:
            start += ((element >> index_bits) + 1) * bin_length
        else:
            index[count] = start + (element & escape)
            negative[count] = element >> index_bits & 1
            count += 1
            if element >> (index_bits + 1):
                start += bin_length


#: What `check` finds wrong.
BEYOND_BIN, NOT_RISING, TOO_MANY_BINS, SPLIT_RUN, TOO_FEW_BINS = 1, 2, 3, 4, 5


@njit(cache=True, nogil=True)
def check(elements, bin_length, index_bits, length):
    """What is wrong with elements (0: nothing), at which of them, and how many stand for sent values."""
    escape = (1 << index_bits) - 1
    start, lowest, short_run, sent = 0, 0, False, 0
    for position, element in enumerate(elements):
        index = element & escape
        if start >= length:
            return TOO_MANY_BINS, position, sent
        if index == escape:
            if lowest:
                return NOT_RISING, position, sent
            if short_run:
                return SPLIT_RUN, position, sent
            run = (element >> index_bits) + 1
            short_run = run < 4
            if start + (run - 1) * bin_length >= length:
                return TOO_MANY_BINS, position, sent
            start += run * bin_length
        else:
            if index >= min(bin_length, length - start):
                return BEYOND_BIN, position, sent
            if index < lowest:
                return NOT_RISING, position, sent
            lowest, short_run, sent = index + 1, False, sent + 1
            if element >> (index_bits + 1):
                start, lowest = start + bin_length, 0
    if start < length or lowest:
        return TOO_FEW_BINS, len(elements), sent
    return 0, 0, sent
