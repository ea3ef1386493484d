// Operands on their way in: from a matrix of codes, or from images (im2col), to panels of codes.
//
// A panel is (depth, width). The ends of short chunks and of the matrix are filled up with codes that change no sum,
// so that every chunk begins a step of the tiles' loop and no tile meets an edge. The largest magnitude of each
// product's codes is noted on the way.

// Element (k, i) of an operand, where its matrix lies.
template <class Code> struct Matrix {
  const Code* codes;
  long long batch, along_k, across;
  __device__ unsigned at(int product, int k, int i) const {
    return codes[product * batch + k * along_k + i * across];
  }
};

// The same of im2col: one index runs over (channel, y, x) of the kernel, the other over (image, row, column) of where
// it stands. Between the pixels lie `spread` − 1 zeros, as in the convolution of errors with a mirrored kernel.
template <class Code> struct Images {
  const Code* codes;
  const int* shape;
  bool places_are_k;
  __device__ unsigned at(int group, int k, int i) const {
    const int channels = shape[0], groups = shape[1], height = shape[2], width = shape[3], kernel_y = shape[4],
              kernel_x = shape[5], rows = shape[6], columns = shape[7], stride_y = shape[8], stride_x = shape[9],
              above = shape[10], left = shape[11], dilation_y = shape[12], dilation_x = shape[13],
              spread_y = shape[14], spread_x = shape[15];
    int place = places_are_k ? k : i, tap = places_are_k ? i : k;
    int x = tap % kernel_x, y = tap / kernel_x % kernel_y, channel = tap / (kernel_x * kernel_y);
    int column = place % columns, row = place / columns % rows, image = place / (columns * rows);
    int v = row * stride_y + y * dilation_y - above, u = column * stride_x + x * dilation_x - left;
    if (v < 0 || u < 0 || v % spread_y || u % spread_x) return 0;
    v /= spread_y;
    u /= spread_x;
    if (v >= height || u >= width) return 0;
    return codes[(((long long)image * groups + group) * channels + channel) * height * width + v * width + u];
  }
};

template <class Code, class Source> __device__ __forceinline__
void pack(Source source, Code* panel, unsigned* largest, int count, int width, int K, int depth, int chunk,
          int padded_chunk, unsigned neutral, unsigned magnitude) {
  unsigned most = 0;
  for (int first = blockIdx.y * 32; first < depth; first += gridDim.y * 32)
    for (int n = first + threadIdx.x / 32; n < first + 32 && n < depth; n += 8) {
      int in_chunk = n % padded_chunk, k = n / padded_chunk * chunk + in_chunk;
      for (int i = blockIdx.x * 128 + threadIdx.x % 32; i < blockIdx.x * 128 + 128 && i < width; i += 32) {
        unsigned code = neutral;
        if (i < count && in_chunk < chunk && k < K) {
          code = source.at(blockIdx.z, k, i);
          most = most > (code & magnitude) ? most : code & magnitude;
        }
        panel[((size_t)blockIdx.z * depth + n) * width + i] = (Code)code;
      }
    }
  if (most) atomicMax(largest + blockIdx.z, most);
}

#define PACK(name, Type, neutral, magnitude)                                                                        \
  extern "C" __global__ void pack_##name(const Type* codes, long long batch, long long along_k, long long across,   \
                                         Type* panel, unsigned* largest, int count, int width, int K, int depth,    \
                                         int chunk, int padded_chunk) {                                             \
    pack(Matrix<Type>{codes, batch, along_k, across}, panel, largest, count, width, K, depth, chunk, padded_chunk,  \
         neutral, magnitude);                                                                                       \
  }                                                                                                                 \
  extern "C" __global__ void pack_images_##name(const Type* codes, const int* shape, int places_are_k, Type* panel, \
                                                unsigned* largest, int count, int width, int K, int depth,          \
                                                int chunk, int padded_chunk) {                                      \
    pack(Images<Type>{codes, shape, places_are_k != 0}, panel, largest, count, width, K, depth, chunk,              \
         padded_chunk, neutral, magnitude);                                                                         \
  }
PACK(a, CodeA, Program::neutral_a, Program::magnitude_a)
PACK(b, CodeB, Program::neutral_b, Program::magnitude_b)
