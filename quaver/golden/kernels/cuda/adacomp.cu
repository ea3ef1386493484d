// AdaComp: the layers of a bucket to packets and residues, and packets to averages. docs/adacomp.md has the rule and the
// bytes, quaver/golden/kernels/adacomp.py the same as loops.
//
// A block has a stretch of 32 bins of one layer, eight threads a bin, which read 32 bytes at once.

static constexpr unsigned infinity = 0x7F800000, magnitude = 0x7FFFFFFF;
static constexpr int header = Program::header, overhead = Program::header + 4;

struct Layer {
  long long first, length, bin_length;  // its elements in the bucket
  long long first_bin, first_stretch, first_word;  // its places among bins, stretches, and words of the mask
  long long packet, number;  // the first byte of its packet, a multiple of 16; what the packet calls it
  __device__ long long bins() const { return (length + bin_length - 1) / bin_length; }
  __device__ long long stretches() const { return (bins() + 31) / 32; }
  __device__ long long words() const { return (bin_length + 31) / 32; }  // of a bin's mask
};

struct Packet {
  long long start;  // its first byte
  long long first, length, bin_length;  // the layer's elements in the average
  long long place, mark;  // its places among those of elements, and its mark
};

// The bin of a thread's eight; without elements beyond the layer's end.
struct Bin {
  long long number, first;
  int length;
  unsigned* mask;
  __device__ Bin(const Layer& of, unsigned* masks) {
    number = (blockIdx.x - of.first_stretch) * 32 + threadIdx.x / 8;
    const long long begin = number * of.bin_length, left = of.length - begin;
    first = of.first + begin;
    length = (int)(left < 0 ? 0 : left < of.bin_length ? left : of.bin_length);
    mask = masks + of.first_word + number * of.words();
  }
};

// Bins that follow each other: the first and the last of which something is sent, the elements from one to the other
// with those for empty bins between, and how many values they send. Of none: the first is 0, the last −1.
struct Run {
  long long first, last, elements, sent;
};

__device__ __forceinline__ long long fours(long long empty) { return (empty + 3) / 4; }

__device__ __forceinline__ Run joined(const Run& a, const Run& b) {
  if (b.first > b.last) return a;
  if (a.first > a.last) return b;
  return {a.first, b.last, a.elements + fours(b.first - a.last - 1) + b.elements, a.sent + b.sent};
}

__device__ __forceinline__ Run of_bin(long long bin, unsigned sent) {
  return sent ? Run{bin, bin, (long long)sent, (long long)sent} : Run{0, -1, 0, 0};
}

// Before a layer, as if something had been sent of a bin −1.
__device__ __forceinline__ Run nothing() { return {-1, -1, 0, 0}; }

template <class T> __device__ __forceinline__ void to_bytes(unsigned char* at, T value) {
  for (unsigned i = 0; i < sizeof value; i++) at[i] = (unsigned char)(value >> 8 * i);
}

__device__ __forceinline__ unsigned word_at(const unsigned char* at) {
  return at[0] | at[1] << 8 | at[2] << 16 | (unsigned)at[3] << 24;
}

// G, of each bin how much is sent, and a mask of what. sums[e] of a layer gets the significands of maxima whose exponent
// field is e: of 255 there are some if something is not finite.
extern "C" __global__ void decide(const Layer* layers, const int* layer_of, const float* residues,
                                  const float* gradients, float* pending, unsigned* masks, unsigned* counts, Run* runs,
                                  Word* sums) {
  extern __shared__ uint4 memory[];
  unsigned *largest = (unsigned*)memory, *sent = largest + 256;
  const int thread = threadIdx.x, lane = thread % 8, eight = thread - lane, layer = layer_of[blockIdx.x];
  const Layer of = layers[layer];
  const Bin bin(of, masks);
  unsigned most = 0;
  for (int i = lane; i < bin.length; i += 8) {
    const float g = residues[bin.first + i] + gradients[bin.first + i];
    pending[bin.first + i] = g;
    const unsigned size = __float_as_uint(g) & magnitude;
    most = size > most ? size : most;
  }
  largest[thread] = most;
  __syncthreads();
  for (int i = 0; i < 8; i++) most = largest[eight + i] > most ? largest[eight + i] : most;
  __syncthreads();
  unsigned found = 0, ends = most;
  if (most && most < infinity)
    for (int i = lane; i < bin.length; i += 8) {
      const float g = pending[bin.first + i];
      const unsigned ahead = __float_as_uint(g + gradients[bin.first + i]) & magnitude;
      if (ahead >= infinity) ends = infinity;
      // Magnitudes of floats are in the order of their bits.
      if (ahead < most || g == 0) continue;
      atomicOr(bin.mask + i / 32, 1u << i % 32);
      found++;
    }
  largest[thread] = ends;
  sent[thread] = found;
  __syncthreads();
  if (lane == 0) {
    for (int i = 1; i < 8; i++) {
      sent[thread] += sent[thread + i];
      largest[thread] = largest[thread + i] > largest[thread] ? largest[thread + i] : largest[thread];
    }
    if (bin.length) counts[of.first_bin + bin.number] = sent[thread];
  }
  __syncthreads();
  Word sum = 0;
  for (int i = 0; i < 256; i += 8)
    if (largest[i] >> 23 == (unsigned)thread) sum += (largest[i] & 0x7FFFFF) + (thread ? 0x800000 : 0);
  if (sum) atomicAdd(sums + 256 * layer + thread, sum);
  if (thread == 0) {
    Run run = of_bin(0, 0);
    for (int i = 0; i < 32; i++) run = joined(run, of_bin(bin.number + i, sent[8 * i]));
    runs[blockIdx.x] = run;
  }
}

// The mean of the maxima: their exact sum, in units of 2**-149, over the number of bins, rounded once.
__device__ float mean_of_maxima(const Word* sums, Word bins) {
  constexpr int limbs = 12;
  unsigned total[limbs] = {};
  for (int field = 0; field < 255; field++) {
    if (!sums[field]) continue;
    const int shift = field ? field - 1 : 0, place = shift / 32, up = shift % 32;
    const Word low = sums[field] << up, high = up ? sums[field] >> (64 - up) : 0;
    Word carry = 0;
    for (int i = place; i < limbs; i++) {
      const unsigned part = i == place ? (unsigned)low : i == place + 1 ? (unsigned)(low >> 32)
                            : i == place + 2 ? (unsigned)high : 0;
      carry += (Word)total[i] + part;
      total[i] = (unsigned)carry;
      carry >>= 32;
    }
  }
  Word rest = 0;
  int bits = 0;  // of the quotient
  for (int i = limbs - 1; i >= 0; i--) {
    const Word part = rest << 32 | total[i];
    total[i] = (unsigned)(part / bins);
    rest = part % bins;
    if (!bits && total[i]) bits = 32 * i + 64 - __clzll((long long)total[i]);
  }
  const int excess = bits > 24 ? bits - 24 : 0;
  unsigned kept = 0, half = 0;
  bool more = rest != 0;
  for (int i = 0; i < bits; i++) {
    const unsigned bit = total[i / 32] >> i % 32 & 1;
    if (i >= excess) kept |= bit << (i - excess);
    else if (i == excess - 1) half = bit;
    else more |= bit;
  }
  if (!excess) half = 2 * rest >= bins, more = 2 * rest > bins;
  // The exponent field is excess + 1 where the significand has 24 bits: as a sum, which carries over.
  return __uint_as_float(((unsigned)excess << 23) + kept + (half && (more || (kept & 1))));
}

// The CRC-32 register after `count` more bytes.
__device__ unsigned checked(const unsigned char* bytes, long long count, unsigned state) {
  for (long long i = 0; i < count; i++) {
    state ^= bytes[i];
    for (int bit = 0; bit < 8; bit++) state = state >> 1 ^ (0xEDB88320 & (0u - (state & 1)));
  }
  return state;
}

// Of each layer the run before every stretch, the scale, the packet's header but for the checksum, and in `about` its
// bytes, how many values it sends, and whether all was finite.
extern "C" __global__ void seal(const Layer* layers, const Word* sums, Run* runs, unsigned char* packets, int learner,
                                  unsigned step, float* scales, long long* about) {
  extern __shared__ uint4 memory[];
  Run* shared = (Run*)memory;
  const int thread = threadIdx.x, layer = blockIdx.x;
  const Layer of = layers[layer];
  runs += of.first_stretch;
  sums += 256 * layer;
  const long long stretches = of.stretches(), share = (stretches + 255) / 256;
  const long long begin = min(share * thread, stretches), end = min(begin + share, stretches);
  Run mine = of_bin(0, 0);
  for (long long i = begin; i < end; i++) mine = joined(mine, runs[i]);
  shared[thread] = mine;
  __syncthreads();
  Run before = nothing();
  for (int i = 0; i < thread; i++) before = joined(before, shared[i]);
  for (long long i = begin; i < end; i++) {
    const Run run = runs[i];
    runs[i] = before;
    before = joined(before, run);
  }
  if (thread < 255) return;
  const bool finite = sums[255] == 0;
  const int size = of.bin_length < 64 ? 1 : 2;
  const long long elements = before.elements + fours(of.bins() - before.last - 1);
  const unsigned bytes = finite ? (unsigned)(elements * size) : 0;
  const float scale = !finite ? __uint_as_float(0x7FC00000) : of.length ? mean_of_maxima(sums, of.bins()) : 0.0f;
  unsigned char* packet = packets + of.packet;
  to_bytes(packet, (unsigned)Program::magic);
  packet[4] = Program::version;
  packet[5] = size;
  to_bytes(packet + 6, (unsigned short)learner);
  to_bytes(packet + 8, (unsigned)of.number);
  to_bytes(packet + 12, step);
  to_bytes(packet + 16, (unsigned)of.length);
  to_bytes(packet + 20, (unsigned)of.bin_length);
  to_bytes(packet + 24, bytes);
  to_bytes(packet + 28, __float_as_uint(scale));
  to_bytes(packet + 32, 0u);
  scales[layer] = scale;
  about[3 * layer] = overhead + bytes;
  about[3 * layer + 1] = finite ? before.sent : 0;
  about[3 * layer + 2] = finite;
}

// The elements of the packets, and in `pending` the new residues.
extern "C" __global__ void place(const Layer* layers, const int* layer_of, const float* residues, const unsigned* masks,
                                 const unsigned* counts, const Run* runs, const float* scales, float* pending,
                                 unsigned char* packets) {
  const int lane = threadIdx.x % 8, layer = layer_of[blockIdx.x];
  const Layer of = layers[layer];
  const Bin bin(of, (unsigned*)masks);
  if (!bin.length) return;
  const float scale = scales[layer];
  if (scale != scale) {
    for (int i = lane; i < bin.length; i += 8) pending[bin.first + i] = residues[bin.first + i];
    return;
  }
  const bool short_bins = of.bin_length < 64;
  const int bits = short_bins ? 6 : 14;
  unsigned char* packet = packets + of.packet + overhead;
  const auto put = [&](long long place, unsigned element) {
    if (short_bins) packet[place] = (unsigned char)element;
    else to_bytes(packet + 2 * place, (unsigned short)element);
  };
  counts += of.first_bin;
  Run before = runs[blockIdx.x];
  for (long long i = bin.number - threadIdx.x / 8; i < bin.number; i++) before = joined(before, of_bin(i, counts[i]));
  const long long empty = bin.number - before.last - 1;
  const unsigned sent = counts[bin.number];
  if (!sent) {
    // The last of four empty bins, or of a run of them, says how many there are.
    const bool ends = bin.number + 1 == of.bins() || counts[bin.number + 1];
    if (lane == 0 && (ends || empty % 4 == 3))
      put(before.elements + empty / 4, ((1u << bits) - 1) | (unsigned)(empty % 4) << bits);
    return;
  }
  const int words = (int)of.words(), share = (words + 7) / 8, begin = min(share * lane, words);
  unsigned passed = 0;
  for (int word = 0; word < begin; word++) passed += __popcll(bin.mask[word]);
  for (int word = begin; word < min(begin + share, words); word++)
    for (unsigned left = bin.mask[word]; left; left &= left - 1) {
      const int i = 32 * word + 63 - __clzll((long long)(left & (0u - left)));
      const float g = pending[bin.first + i];
      const unsigned negative = g < 0, last = passed + 1 == sent;
      put(before.elements + fours(empty) + passed++, i | negative << bits | last << (bits + 1));
      pending[bin.first + i] = g + (negative ? scale : -scale);
    }
}

// The CRC-32 of packets without their checksums, exclusive-ored into `checksums`: blocks (x, y) do part y of packet x. It
// is linear, so that each thread's bytes are moved past those that follow, and put together. starts[2 * x] is a packet's
// first byte, starts[2 * x + 1] where its checksum goes.
extern "C" __global__ void add_checksums(const unsigned* matrices, const long long* starts, const unsigned char* packets,
                                    unsigned* checksums) {
  const unsigned char* packet = packets + starts[2 * blockIdx.x];
  const long long bytes = word_at(packet + 24), threads = 256 * gridDim.y, thread = 256 * blockIdx.y + threadIdx.x;
  const long long least = (bytes + threads - 1) / threads, share = least < 16 ? 16 : least;
  const long long begin = min(share * thread, bytes), end = min(begin + share, bytes);
  unsigned state = moved_by(matrices, bytes - end, checked(packet + overhead + begin, end - begin, 0));
  if (thread == 0) state ^= ~moved_by(matrices, bytes, checked(packet, header, ~0u));
  if (state) atomicXor(checksums + starts[2 * blockIdx.x + 1], state);
}

enum Wrong { NONE, BEYOND_BIN, NOT_RISING, TOO_MANY_BINS, SPLIT_RUN, TOO_FEW_BINS };

// Of a packet's elements, a block's: which place in the average each is for, twice that and 1 if it is −scale, or −1; and
// in `marks` eight times the first that is wrong, and what is. Four elements a thread.
extern "C" __global__ void read_elements(const Packet* packets, const unsigned char* bytes, long long* places, Word* marks) {
  extern __shared__ uint4 memory[];
  Word* ended = (Word*)memory;
  const Packet of = packets[blockIdx.x];
  const bool short_bins = of.bin_length < 64;
  const int thread = threadIdx.x, bits = short_bins ? 6 : 14;
  const unsigned escape = (1u << bits) - 1;
  const unsigned char* elements = bytes + of.start + overhead;
  const long long count = word_at(bytes + of.start + 24) / (short_bins ? 1 : 2);
  const auto element = [&](long long i) {
    return short_bins ? elements[i] : (unsigned)(elements[2 * i] | elements[2 * i + 1] << 8);
  };
  const auto ends = [&](unsigned code) {  // so many bins
    return (code & escape) == escape ? (code >> bits) + 1 : code >> (bits + 1);
  };
  const auto wrong = [&](long long position, Wrong what) {
    atomicMin(marks + of.mark, (Word)(8 * position + what));
  };
  Word bins = 0;
  for (long long base = 0; base < count; base += 1024) {
    const long long first = base + 4 * thread;
    Word mine = 0;
    for (int j = 0; j < 4; j++)
      if (first + j < count) mine += ends(element(first + j));
    ended[thread] = mine;
    __syncthreads();
    for (int step = 1; step < 256; step *= 2) {
      const Word other = thread >= step ? ended[thread - step] : 0;
      __syncthreads();
      ended[thread] += other;
      __syncthreads();
    }
    long long bin = (long long)(bins + ended[thread] - mine);
    bins += ended[255];
    __syncthreads();
    for (long long i = first; i < min(first + 4, count); i++) {
      const unsigned code = element(i), index = code & escape, before = i ? element(i - 1) : 2 * escape + 2;
      const bool after_run = i && (before & escape) == escape, open = !after_run && !(before >> (bits + 1));
      const long long start = bin * of.bin_length, left = of.length - start;
      Wrong found = NONE;
      if (left <= 0) found = TOO_MANY_BINS;
      else if (index == escape) {
        if (open) found = NOT_RISING;
        else if (after_run && before >> bits < 3) found = SPLIT_RUN;
        else if ((code >> bits) * of.bin_length >= left) found = TOO_MANY_BINS;
      } else if (index >= of.bin_length || index >= left) found = BEYOND_BIN;
      else if (open && index <= (before & escape)) found = NOT_RISING;
      if (found) wrong(i, found);
      const bool sends = !found && index != escape;
      places[of.place + i] = sends ? 2 * (of.first + start + index) + (code >> bits & 1) : -1;
      bin += ends(code);
    }
  }
  if (thread == 0 && (long long)bins * of.bin_length < of.length) wrong(count, TOO_FEW_BINS);
}

// What one learner's packets add to the sums, blocks (x, y) part y of packet x. A share of NaN makes the layer NaN.
extern "C" __global__ void add_shares(const Packet* packets, const unsigned char* bytes, const long long* places,
                               const float* shares, float* sums) {
  const Packet of = packets[blockIdx.x];
  const float share = shares[blockIdx.x];
  const long long threads = 256 * gridDim.y, thread = 256 * blockIdx.y + threadIdx.x;
  const long long count = word_at(bytes + of.start + 24) / (of.bin_length < 64 ? 1 : 2);
  if (share != share)
    for (long long i = thread; i < of.length; i += threads) sums[of.first + i] = share;
  for (long long i = thread; i < count; i += threads)
    if (places[of.place + i] >= 0) sums[places[of.place + i] / 2] += places[of.place + i] & 1 ? -share : share;
}
