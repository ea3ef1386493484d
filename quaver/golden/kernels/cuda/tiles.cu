// C = A·B from panels, a tile of outputs a block, by the `Arithmetic` before it.
//
// A thread keeps rows × 8 sums in registers; operands, draws and totals are in shared memory. Its rows are four
// neighbours out of each group, its columns eight neighbours, and a warp's threads lie 4 × 8, so that the draws of the
// diagonals, places 3 · row + column, come in vectors without conflicts between banks.

typedef Arithmetic::Value Value;
typedef Arithmetic::Sum Sum;

static constexpr int threads = 256, down = threads / Program::across, columns = 8, outputs = Program::rows * columns,
                     tile_rows = Program::rows * down, tile_columns = columns * Program::across, step = Program::step;
// Places of the three sources that a tile draws from: its rows', its columns', its diagonals'.
static constexpr int column_places = tile_rows, diagonal_places = column_places + tile_columns,
                     places = diagonal_places + 3 * tile_rows + tile_columns;

struct alignas(16) Shared {
  Value a[2][step][tile_rows], b[2][step][tile_columns];
  Sum totals[outputs][threads];
  unsigned draws[Program::drawn ? step + 1 : 1][Program::drawn ? places : 4];
  Value table[2][Program::tabled ? 256 : 1];
};

static_assert(sizeof(Shared) == Program::shared, "as Tiling.shared_memory in source.py has it");

// What a launch is about, the same for all of its threads.
struct Launch {
  const CodeA* a;
  const CodeB* b;
  const unsigned *rows_states, *columns_states, *diagonals_states;
  CodeC* c;
  Sum* partials;
  unsigned* fold_draws;
  int M, N, K, width_a, width_b, depth, chunk, padded_chunk, runs, first_chunk, chunks_of_run, end_chunk;
};

template <class T> __device__ __forceinline__ void copy16(T* to, const T* from, int bytes) {
#pragma unroll
  for (int i = 0; i < bytes / 16; i++) ((uint4*)to)[i] = ((const uint4*)from)[i];
}

template <class Code> struct alignas(4 * sizeof(Code)) Four {
  Code code[4];
};

// A step's operands on their way from a panel to shared memory, four codes at a time.
template <class Code, int WIDTH> struct Loader {
  static constexpr int fours = step * WIDTH / 4, each = (fours + threads - 1) / threads;
  Four<Code> held[each];

  __device__ __forceinline__ void fetch(const Code* panel, int width) {
#pragma unroll
    for (int i = 0; i < each; i++) {
      int e = i * threads + threadIdx.x;
      if (e < fours) held[i] = *(const Four<Code>*)(panel + (size_t)(e / (WIDTH / 4)) * width + e % (WIDTH / 4) * 4);
    }
  }
  template <class Decode> __device__ __forceinline__ void put(Value (*values)[WIDTH], Decode decoded) {
#pragma unroll
    for (int i = 0; i < each; i++) {
      int e = i * threads + threadIdx.x;
      if (e >= fours) continue;
      alignas(16) Value four[4];
#pragma unroll
      for (int j = 0; j < 4; j++) four[j] = decoded(held[i].code[j]);
      copy16(&values[e / (WIDTH / 4)][e % (WIDTH / 4) * 4], four, sizeof four);
    }
  }
};

template <bool CHECKED> __device__ __forceinline__ void tile(const Launch& launch) {
  extern __shared__ uint4 memory[];
  Shared& shared = *(Shared*)memory;
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const int x = warp % (Program::across / 8) * 8 + ((lane & 3) | ((lane >> 1) & 4));
  const int y = warp / (Program::across / 8) * 4 + (((lane >> 2) & 1) | ((lane >> 3) & 2));
  const int first_row = blockIdx.y * tile_rows, first_column = blockIdx.x * tile_columns;
  const int product = blockIdx.z / launch.runs, run = blockIdx.z % launch.runs;
  const int first_chunk = launch.first_chunk + run * launch.chunks_of_run;
  const int end_chunk = min(first_chunk + launch.chunks_of_run, launch.end_chunk);
  const int steps_of_chunk = launch.padded_chunk / step, all_steps = launch.depth / step;
  const int begin = first_chunk * steps_of_chunk, end = min(end_chunk * steps_of_chunk, all_steps);
  const CodeA* panel_a = launch.a + (size_t)product * launch.depth * launch.width_a + first_row;
  const CodeB* panel_b = launch.b + (size_t)product * launch.depth * launch.width_b + first_column;
  auto row = [&](int i) { return i / 4 * 4 * down + 4 * y + i % 4; };

  Sum sums[outputs];
#pragma unroll
  for (int e = 0; e < outputs; e++) sums[e] = 0, shared.totals[e][thread] = 0;
  if (Program::tabled) {
    shared.table[0][thread] = Arithmetic::decode_a(thread);
    shared.table[1][thread] = Arithmetic::decode_b(thread);
  }

  // The states of the sources at the places that this thread draws for.
  constexpr int own = Program::drawn ? (places + threads - 1) / threads : 1;
  unsigned state[own];
  if (Program::drawn) {
    const size_t at = (size_t)product * launch.runs + run;
#pragma unroll
    for (int i = 0; i < own; i++) {
      int place = i * threads + thread;
      if (place < column_places)
        state[i] = launch.rows_states[at * launch.width_a + first_row + place];
      else if (place < diagonal_places)
        state[i] = launch.columns_states[at * launch.width_b + first_column + place - column_places];
      else if (place < places)
        state[i] = launch.diagonals_states[at * (3 * launch.width_a + launch.width_b) + 3 * first_row + first_column +
                                           place - diagonal_places];
    }
  }
  // How many of a step's products are no filling, and whether the step is the last of its chunk.
  auto products_of = [&](int n) {
    int in_chunk = n % steps_of_chunk * step;
    return min(step, min(launch.chunk - in_chunk, launch.K - n / steps_of_chunk * launch.chunk - in_chunk));
  };
  auto ends = [&](int n) { return n % steps_of_chunk == steps_of_chunk - 1 || n == all_steps - 1; };
  static_assert(!Program::drawn || 3 * (step + 1) <= 32, "Ahead has bits for so many sums");
  // A step's draws at one place, and the fold's after them. Filling draws too, and nothing hangs on what.
  auto draw_at = [&](auto ahead, int place, int sums_of_step) {
    const unsigned mask = (unsigned)((1ULL << Program::random_bits) - 1);
    unsigned after = ahead.state;
#pragma unroll
    for (int k = 0; k <= step; k++) {
      shared.draws[k][place] = (ahead.state & mask) << Arithmetic::shift_made;
      ahead.next_sum();
      if (k < sums_of_step) after = ahead.state;
    }
    return after;
  };
  auto draw = [&](int n) {
    const int sums_of_step = products_of(n) + ends(n);
#pragma unroll
    for (int i = 0; i < own; i++) {
      int place = i * threads + thread;
      if (place < column_places)
        state[i] = draw_at(Ahead<RowSource>(state[i]), place, sums_of_step);
      else if (place < diagonal_places)
        state[i] = draw_at(Ahead<ColumnSource>(state[i]), place, sums_of_step);
      else if (place < places)
        state[i] = draw_at(Ahead<DiagonalSource>(state[i]), place, sums_of_step);
    }
  };
  // The draws of one row of this thread's outputs in the sum number k of a step.
  struct Drawn {
    alignas(16) unsigned rows[4], columns[8], diagonals[20];
    __device__ __forceinline__ unsigned of(int i, int j) const { return rows[i] ^ columns[j] ^ diagonals[3 * i + j]; }
  };
  auto drawn = [&](Drawn& drawn, int k, int group) {
    const unsigned* draws = shared.draws[k];
    const int at = group * 4 * down + 4 * y;
    copy16(drawn.rows, draws + at, 16);
    copy16(drawn.columns, draws + column_places + columns * x, 32);
    copy16(drawn.diagonals, draws + diagonal_places + 3 * at + columns * x, 80);
  };

  Loader<CodeA, tile_rows> loader_a;
  Loader<CodeB, tile_columns> loader_b;
  auto fetch = [&](int n) {
    loader_a.fetch(panel_a + (size_t)n * step * launch.width_a, launch.width_a);
    loader_b.fetch(panel_b + (size_t)n * step * launch.width_b, launch.width_b);
  };
  auto put = [&](int side) {
    loader_a.put(shared.a[side],
                 [&](unsigned code) { return Program::tabled ? shared.table[0][code] : Arithmetic::decode_a(code); });
    loader_b.put(shared.b[side],
                 [&](unsigned code) { return Program::tabled ? shared.table[1][code] : Arithmetic::decode_b(code); });
  };

  fetch(begin);
  __syncthreads();
  put(0);
  if (Program::drawn) draw(begin);
  __syncthreads();
  int side = 0;
  for (int n = begin; n < end; n++, side ^= 1) {
    const bool more = n + 1 < end;
    if (more) fetch(n + 1);
#pragma unroll(CHECKED ? 1 : step)  // the other is rare, and need not be large
    for (int k = 0; k < step; k++) {
      alignas(16) Value a[Program::rows], b[columns];
#pragma unroll
      for (int i = 0; i < Program::rows; i += 4) copy16(a + i, &shared.a[side][k][row(i)], 4 * sizeof(Value));
      copy16(b, &shared.b[side][k][columns * x], sizeof b);
#pragma unroll
      for (int group = 0; group < Program::rows / 4; group++) {
        Drawn random;
        if (Program::drawn) drawn(random, k, group);
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
          for (int j = 0; j < columns; j++) {
            Sum& sum = sums[(4 * group + i) * columns + j];
            sum = Arithmetic::template add_product<CHECKED>(sum, a[4 * group + i], b[j],
                                                            Program::drawn ? random.of(i, j) : 0);
          }
      }
    }
    if (ends(n)) {
      const size_t chunks = launch.end_chunk - launch.first_chunk;
      const size_t at = product * chunks + n / steps_of_chunk - launch.first_chunk;
#pragma unroll
      for (int group = 0; group < Program::rows / 4; group++) {
        Drawn random;
        if (Program::drawn) drawn(random, products_of(n), group);
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
          for (int j = 0; j < columns; j++) {
            const int e = (4 * group + i) * columns + j;
            const unsigned bits = Program::drawn ? random.of(i, j) : 0;
            if (launch.partials) {
              const size_t place = (at * launch.width_a + first_row + row(4 * group + i)) * launch.width_b +
                                   first_column + columns * x + j;
              launch.partials[place] = sums[e];
              if (Program::drawn) launch.fold_draws[place] = bits;
            } else
              shared.totals[e][thread] =
                  Arithmetic::template fold<CHECKED>(shared.totals[e][thread], sums[e], bits);
            sums[e] = 0;
          }
      }
    }
    if (Program::drawn) __syncthreads();  // all have read this step's draws
    if (more) put(side ^ 1);
    if (Program::drawn && more) draw(n + 1);
    __syncthreads();
  }
  if (launch.partials) return;
  for (int e = 0; e < outputs; e++) {
    const int m = first_row + row(e / columns), n = first_column + columns * x + e % columns;
    if (m >= launch.M || n >= launch.N) continue;
    unsigned random = 0;
    if (Program::result_drawn)
      random = result_draw(launch.rows_states, launch.columns_states, launch.diagonals_states, product,
                           launch.width_a, launch.width_b, m, n);
    launch.c[((size_t)product * launch.M + m) * launch.N + n] =
        (CodeC)Arithmetic::encode(shared.totals[e][thread], random);
  }
}

extern "C" __global__ __launch_bounds__(256, Program::blocks) void gemm(
    const CodeA* a, const CodeB* b, const unsigned* largest_a, const unsigned* largest_b, double limit,
    const unsigned* rows_states, const unsigned* columns_states, const unsigned* diagonals_states, CodeC* c,
    Sum* partials, unsigned* fold_draws, int M, int N, int K, int width_a, int width_b, int depth, int chunk,
    int padded_chunk, int runs, int first_chunk, int chunks_of_run, int end_chunk) {
  const Launch launch = {a, b, rows_states, columns_states, diagonals_states, c, partials, fold_draws, M, N, K, width_a,
                         width_b, depth, chunk, padded_chunk, runs, first_chunk, chunks_of_run, end_chunk};
  const int product = blockIdx.z / runs;
  if (!Program::checked || Arithmetic::fits(largest_a[product], largest_b[product], limit))
    tile<false>(launch);
  else
    tile<true>(launch);
}

// Where blocks had to share the chunks of an output: the fold of their partial sums, in the order of the chunks.
// `totals` carries an output from one slab of chunks to the next; the last one encodes.
extern "C" __global__ void fold(const Sum* partials, const unsigned* fold_draws, const unsigned* rows_states,
                                const unsigned* columns_states, const unsigned* diagonals_states, Sum* totals,
                                CodeC* c, int M, int N, int width_a, int width_b, int chunks, int first, int last) {
  const size_t output = (size_t)blockIdx.x * 256 + threadIdx.x;
  if (output >= (size_t)M * N) return;
  const int product = blockIdx.y, m = output / N, n = output % N;
  const size_t here = (size_t)product * M * N + output;
  Sum total = first ? 0 : totals[here];
  for (int chunk = 0; chunk < chunks; chunk++) {
    const size_t place = (((size_t)product * chunks + chunk) * width_a + m) * width_b + n;
    total = Arithmetic::template fold<true>(total, partials[place], Program::drawn ? fold_draws[place] : 0);
  }
  totals[here] = total;
  if (last) {
    unsigned random = 0;
    if (Program::result_drawn)
      random = result_draw(rows_states, columns_states, diagonals_states, product, width_a, width_b, m, n);
    c[here] = (CodeC)Arithmetic::encode(total, random);
  }
}
