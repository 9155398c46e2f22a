// Multi-head attention over packed sequences, bfloat16 in and out, float32 inside; AVX-512 with BF16.
//
// Sequences lie one after the other: q, k, v are [tokens, heads, dim], and no token sees one of another sequence. A call
// runs in the caller's thread; callers run one batch a core. Every head of every sequence is one task: its keys and values
// are rearranged once for vdpbf16ps, then blocks of query rows go through scores, softmax and values while they are in
// the first-level cache. Scores are never written to memory.
//
// Forward keeps the log-sum-exp of each row where asked to; backward recomputes the probabilities from it
// (Dao et al. 2022, "FlashAttention", appendix B).

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

using bf16 = uint16_t;

struct Strided {
    const bf16* data;
    int64_t row, head;
    const bf16* at(int64_t token, int64_t h) const { return data + token * row + h * head; }
};

struct StridedOut {
    bf16* data;
    int64_t row, head;
    bf16* at(int64_t token, int64_t h) const { return data + token * row + h * head; }
};

// Memory of this thread, kept between calls.
struct Scratch {
    void* memory = nullptr;
    size_t size = 0;
    ~Scratch() { free(memory); }
    char* of(size_t bytes) {
        if (bytes > size) {
            free(memory);
            memory = aligned_alloc(64, (bytes + 63) & ~size_t(63));
            size = memory ? bytes : 0;
        }
        return static_cast<char*>(memory);
    }
};
thread_local Scratch scratch;

// Lays arrays out one after the other, each on a cache line of its own.
struct Layout {
    size_t bytes = 0;
    size_t add(size_t count, size_t item) {
        size_t at = bytes;
        bytes += (count * item + 63) & ~size_t(63);
        return at;
    }
};

inline __m512i load(const void* from) { return _mm512_loadu_si512(from); }

inline __m512 dot_pairs(__m512 sum, __m512i a, __m512i b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }

inline void store_bf16(bf16* to, __m512 values) {
    _mm256_storeu_si256((__m256i*)to, (__m256i)_mm512_cvtneps_pbh(values));
}

// e^x for x <= 0, relative error below 1e-4: what is rounded to bfloat16 needs no more.
inline __m512 exponential(__m512 x) {
    __m512 t = _mm512_mul_ps(_mm512_max_ps(x, _mm512_set1_ps(-87.0f)), _mm512_set1_ps(1.44269504088896341f));
    __m512 whole = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 rest = _mm512_sub_ps(t, whole);
    __m512 power = _mm512_set1_ps(9.618129107628477e-3f);
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(5.550410866482158e-2f));
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(2.402265069591007e-1f));
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(6.931471805599453e-1f));
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(power, whole);
}

inline void transpose_16x16(__m512i r[16]) {
    __m512i t[16];
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++) {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 8; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    }
}

// Rows [length][D] to pairs of neighbouring columns, transposed: [D / 2][padded], zeros behind the last row.
template <int D>
void transpose_pairs(const bf16* rows, int64_t stride, int length, int padded, uint32_t* out) {
    for (int j = 0; j < padded; j += 16)
        for (int p = 0; p < D / 2; p += 16) {
            __m512i block[16];
            for (int i = 0; i < 16; i++)
                block[i] = j + i < length ? load(rows + (j + i) * stride + 2 * p) : _mm512_setzero_si512();
            transpose_16x16(block);
            for (int i = 0; i < 16; i++) _mm512_storeu_si512(out + int64_t(p + i) * padded + j, block[i]);
        }
}

inline __m512i interleave(__m256i low, __m256i high) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
}

// Rows [length][columns] to pairs of neighbouring rows: [padded / 2][columns], zeros behind the last row.
void interleave_rows(const bf16* rows, int64_t stride, int length, int padded, int columns, uint32_t* out) {
    for (int j = 0; j < padded; j += 2)
        for (int d = 0; d < columns; d += 16) {
            const bf16* at = rows + j * stride + d;
            __m256i none = _mm256_setzero_si256();
            __m256i low = j < length ? _mm256_loadu_si256((const __m256i*)at) : none;
            __m256i high = j + 1 < length ? _mm256_loadu_si256((const __m256i*)(at + stride)) : none;
            _mm512_storeu_si512(out + int64_t(j / 2) * columns + d, interleave(low, high));
        }
}

// out[R][16 * N] = a[R][steps] · b[steps][16 * N], where a and b hold pairs along the steps.
template <int R, int N>
inline void product_tile(const uint32_t* a, int64_t a_row, const uint32_t* b, int64_t b_row, int steps, float* out,
                         int64_t out_row) {
    __m512 sum[R][N];
    for (int r = 0; r < R; r++)
        for (int n = 0; n < N; n++) sum[r][n] = _mm512_setzero_ps();
    for (int step = 0; step < steps; step++) {
        __m512i column[N];
        for (int n = 0; n < N; n++) column[n] = load(b + step * b_row + 16 * n);
        for (int r = 0; r < R; r++) {
            __m512i pair = _mm512_set1_epi32(int(a[r * a_row + step]));
            for (int n = 0; n < N; n++) sum[r][n] = dot_pairs(sum[r][n], pair, column[n]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int n = 0; n < N; n++) _mm512_storeu_ps(out + r * out_row + 16 * n, sum[r][n]);
}

template <int R>
void product_rows(const uint32_t* a, int64_t a_row, const uint32_t* b, int64_t b_row, int steps, float* out,
                  int64_t out_row, int columns) {
    int n = 0;
    // As many sums at once as there are registers.
    if constexpr (R <= 6)
        for (; n + 64 <= columns; n += 64) product_tile<R, 4>(a, a_row, b + n, b_row, steps, out + n, out_row);
    for (; n + 32 <= columns; n += 32) product_tile<R, 2>(a, a_row, b + n, b_row, steps, out + n, out_row);
    for (; n < columns; n += 16) product_tile<R, 1>(a, a_row, b + n, b_row, steps, out + n, out_row);
}

void product(const uint32_t* a, int64_t a_row, const uint32_t* b, int64_t b_row, int steps, float* out, int64_t out_row,
             int rows, int columns) {
    int m = 0;
    if (columns < 64)
        for (; m + 12 <= rows; m += 12)
            product_rows<12>(a + m * a_row, a_row, b, b_row, steps, out + m * out_row, out_row, columns);
    for (; m + 6 <= rows; m += 6)
        product_rows<6>(a + m * a_row, a_row, b, b_row, steps, out + m * out_row, out_row, columns);
    for (; m < rows; m++) product_rows<1>(a + m * a_row, a_row, b, b_row, steps, out + m * out_row, out_row, columns);
}

__mmask16 last_columns(int length) { return length % 16 ? __mmask16((1u << (length % 16)) - 1) : __mmask16(0xffff); }

constexpr int FORWARD_ROWS = 12;

template <int D>
bool forward(const Strided& q, const Strided& k, const Strided& v, const StridedOut& out, float* row_sums, int64_t first,
             int64_t head, int length, float scale) {
    const int padded = (length + 15) & ~15;
    Layout layout;
    size_t keys_at = layout.add(size_t(D / 2) * padded, 4), values_at = layout.add(size_t(padded / 2) * D, 4);
    size_t scores_at = layout.add(size_t(FORWARD_ROWS) * padded, 4), weights_at = layout.add(size_t(FORWARD_ROWS) * padded, 2);
    size_t mixed_at = layout.add(FORWARD_ROWS * D, 4);
    char* base = scratch.of(layout.bytes);
    if (!base) return false;
    auto* keys = (uint32_t*)(base + keys_at);
    auto* values = (uint32_t*)(base + values_at);
    auto* scores = (float*)(base + scores_at);
    auto* weights = (bf16*)(base + weights_at);
    auto* mixed = (float*)(base + mixed_at);
    transpose_pairs<D>(k.at(first, head), k.row, length, padded, keys);
    interleave_rows(v.at(first, head), v.row, length, padded, D, values);
    const __mmask16 last = last_columns(length);
    for (int start = 0; start < length; start += FORWARD_ROWS) {
        const int rows = length - start < FORWARD_ROWS ? length - start : FORWARD_ROWS;
        product((const uint32_t*)q.at(first + start, head), q.row / 2, keys, padded, D / 2, scores, padded, rows, padded);
        float inverse[FORWARD_ROWS];
        for (int r = 0; r < rows; r++) {
            const float* row = scores + size_t(r) * padded;
            __m512 largest = _mm512_set1_ps(-INFINITY);
            for (int j = 0; j < padded - 16; j += 16) largest = _mm512_max_ps(largest, _mm512_loadu_ps(row + j));
            largest = _mm512_mask_max_ps(largest, last, largest, _mm512_loadu_ps(row + padded - 16));
            const float top = _mm512_reduce_max_ps(largest) * scale;
            __m512 sum = _mm512_setzero_ps();
            for (int j = 0; j < padded; j += 16) {
                __m512 x = _mm512_fmsub_ps(_mm512_loadu_ps(row + j), _mm512_set1_ps(scale), _mm512_set1_ps(top));
                __m512 weight = exponential(x);
                if (j + 16 == padded) weight = _mm512_maskz_mov_ps(last, weight);
                sum = _mm512_add_ps(sum, weight);
                store_bf16(weights + size_t(r) * padded + j, weight);
            }
            const float total = _mm512_reduce_add_ps(sum);
            inverse[r] = 1.0f / total;
            if (row_sums) row_sums[start + r] = top + std::log(total);
        }
        product((const uint32_t*)weights, padded / 2, values, D, padded / 2, mixed, D, rows, D);
        for (int r = 0; r < rows; r++)
            for (int d = 0; d < D; d += 16)
                store_bf16(out.at(first + start + r, head) + d,
                           _mm512_mul_ps(_mm512_loadu_ps(mixed + r * D + d), _mm512_set1_ps(inverse[r])));
    }
    return true;
}

// sums[length][D] += a^T · b, where a[rows / 2][a_row] and b[rows / 2][D] hold pairs of rows.
template <int D>
void add_transposed_product(const uint32_t* a, int64_t a_row, const uint32_t* b, int pairs, int length, float* sums) {
    constexpr int J = 8;
    for (int j = 0; j < length; j += J) {
        const int count = length - j < J ? length - j : J;
        for (int d = 0; d < D; d += 32) {
            __m512 sum[J][2];
            for (int i = 0; i < J; i++)
                for (int n = 0; n < 2; n++) sum[i][n] = _mm512_setzero_ps();
            for (int pair = 0; pair < pairs; pair++) {
                __m512i left = load(b + pair * D + d), right = load(b + pair * D + d + 16);
                const uint32_t* column = a + pair * a_row + j;
                for (int i = 0; i < J; i++) {  // a is padded to 16 columns, so that reading past `count` is safe
                    __m512i one = _mm512_set1_epi32(int(column[i]));
                    sum[i][0] = dot_pairs(sum[i][0], one, left);
                    sum[i][1] = dot_pairs(sum[i][1], one, right);
                }
            }
            for (int i = 0; i < count; i++)
                for (int n = 0; n < 2; n++) {
                    float* at = sums + int64_t(j + i) * D + d + 16 * n;
                    _mm512_storeu_ps(at, _mm512_add_ps(_mm512_loadu_ps(at), sum[i][n]));
                }
        }
    }
}

constexpr int BACKWARD_ROWS = 32;

struct Gradients {
    StridedOut q, k, v;
};

template <int D>
bool backward(const Strided& q, const Strided& k, const Strided& v, const Strided& out, const Strided& grad,
              const float* row_sums, const Gradients& to, int64_t first, int64_t head, int length, float scale) {
    const int padded = (length + 15) & ~15;
    Layout layout;
    size_t keys_at = layout.add(size_t(D / 2) * padded, 4), values_at = layout.add(size_t(D / 2) * padded, 4);
    size_t key_rows_at = layout.add(size_t(padded / 2) * D, 4);
    size_t scores_at = layout.add(size_t(BACKWARD_ROWS) * padded, 4), slopes_at = layout.add(size_t(BACKWARD_ROWS) * padded, 4);
    size_t weights_at = layout.add(size_t(BACKWARD_ROWS) * padded, 2), changes_at = layout.add(size_t(BACKWARD_ROWS) * padded, 2);
    size_t pairs_at = layout.add(size_t(BACKWARD_ROWS / 2) * padded, 4);
    size_t row_pairs_at = layout.add(size_t(BACKWARD_ROWS / 2) * D, 4), query_at = layout.add(BACKWARD_ROWS * D, 4);
    size_t key_sums_at = layout.add(size_t(padded) * D, 4), value_sums_at = layout.add(size_t(padded) * D, 4);
    char* base = scratch.of(layout.bytes);
    if (!base) return false;
    auto* keys = (uint32_t*)(base + keys_at);
    auto* values = (uint32_t*)(base + values_at);
    auto* key_rows = (uint32_t*)(base + key_rows_at);
    auto* scores = (float*)(base + scores_at);
    auto* slopes = (float*)(base + slopes_at);
    auto* weights = (bf16*)(base + weights_at);
    auto* changes = (bf16*)(base + changes_at);
    auto* pairs = (uint32_t*)(base + pairs_at);
    auto* row_pairs = (uint32_t*)(base + row_pairs_at);
    auto* query_sums = (float*)(base + query_at);
    auto* key_sums = (float*)(base + key_sums_at);
    auto* value_sums = (float*)(base + value_sums_at);
    transpose_pairs<D>(k.at(first, head), k.row, length, padded, keys);
    transpose_pairs<D>(v.at(first, head), v.row, length, padded, values);
    interleave_rows(k.at(first, head), k.row, length, padded, D, key_rows);
    memset(key_sums, 0, size_t(padded) * D * 4);
    memset(value_sums, 0, size_t(padded) * D * 4);
    const __mmask16 last = last_columns(length);
    for (int start = 0; start < length; start += BACKWARD_ROWS) {
        const int rows = length - start < BACKWARD_ROWS ? length - start : BACKWARD_ROWS;
        const int even = (rows + 1) & ~1;
        const bf16 *query = q.at(first + start, head), *gradient = grad.at(first + start, head);
        product((const uint32_t*)query, q.row / 2, keys, padded, D / 2, scores, padded, rows, padded);
        product((const uint32_t*)gradient, grad.row / 2, values, padded, D / 2, slopes, padded, rows, padded);
        for (int r = 0; r < rows; r++) {
            const bf16 *result = out.at(first + start + r, head), *wanted = grad.at(first + start + r, head);
            __m512 dots = _mm512_setzero_ps();
            for (int d = 0; d < D; d += 32) dots = dot_pairs(dots, load(result + d), load(wanted + d));
            const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(dots));
            const __m512 sum = _mm512_set1_ps(row_sums[start + r]);
            for (int j = 0; j < padded; j += 16) {
                const size_t at = size_t(r) * padded + j;
                __m512 weight = exponential(_mm512_fmsub_ps(_mm512_loadu_ps(scores + at), _mm512_set1_ps(scale), sum));
                if (j + 16 == padded) weight = _mm512_maskz_mov_ps(last, weight);
                __m512 change = _mm512_mul_ps(_mm512_mul_ps(weight, _mm512_set1_ps(scale)),
                                              _mm512_sub_ps(_mm512_loadu_ps(slopes + at), mean));
                store_bf16(weights + at, weight);
                store_bf16(changes + at, change);
            }
        }
        product((const uint32_t*)changes, padded / 2, key_rows, D, padded / 2, query_sums, D, rows, D);
        for (int r = 0; r < rows; r++)
            for (int d = 0; d < D; d += 16)
                store_bf16(to.q.at(first + start + r, head) + d, _mm512_loadu_ps(query_sums + r * D + d));
        interleave_rows(weights, padded, rows, even, padded, pairs);
        interleave_rows(gradient, grad.row, rows, even, D, row_pairs);
        add_transposed_product<D>(pairs, padded, row_pairs, even / 2, length, value_sums);
        interleave_rows(changes, padded, rows, even, padded, pairs);
        interleave_rows(query, q.row, rows, even, D, row_pairs);
        add_transposed_product<D>(pairs, padded, row_pairs, even / 2, length, key_sums);
    }
    for (int j = 0; j < length; j++)
        for (int d = 0; d < D; d += 16) {
            store_bf16(to.k.at(first + j, head) + d, _mm512_loadu_ps(key_sums + int64_t(j) * D + d));
            store_bf16(to.v.at(first + j, head) + d, _mm512_loadu_ps(value_sums + int64_t(j) * D + d));
        }
    return true;
}

enum Result { DONE = 0, UNSUPPORTED_DIMENSION = 1, OUT_OF_MEMORY = 2 };

template <typename Work>
int each_head(const int64_t* starts, int64_t sequences, int64_t heads, Work work) {
    for (int64_t sequence = 0; sequence < sequences; sequence++) {
        const int64_t length = starts[sequence + 1] - starts[sequence];
        for (int64_t head = 0; length > 0 && head < heads; head++)
            if (!work(starts[sequence], head, int(length))) return OUT_OF_MEMORY;
    }
    return DONE;
}

}  // namespace

// `strides` are (row, head) pairs in elements, of q, k, v, out, and for backward also of grad and of the three gradients.
// `row_sums` is [heads][tokens], or null where backward is not wanted.

extern "C" int robert_attention_forward(const bf16* q, const bf16* k, const bf16* v, bf16* out, float* row_sums,
                                        const int64_t* starts, int64_t sequences, int64_t heads, int64_t dimension,
                                        const int64_t* strides, float scale) {
    const Strided queries{q, strides[0], strides[1]}, keys{k, strides[2], strides[3]}, values{v, strides[4], strides[5]};
    const StridedOut outputs{out, strides[6], strides[7]};
    const int64_t tokens = starts[sequences];
    auto run = [&](auto kernel) {
        return each_head(starts, sequences, heads, [&](int64_t first, int64_t head, int length) {
            float* sums = row_sums ? row_sums + head * tokens + first : nullptr;
            return kernel(queries, keys, values, outputs, sums, first, head, length, scale);
        });
    };
    switch (dimension) {
        case 32: return run(forward<32>);
        case 64: return run(forward<64>);
        case 96: return run(forward<96>);
        case 128: return run(forward<128>);
    }
    return UNSUPPORTED_DIMENSION;
}

extern "C" int robert_attention_backward(const bf16* q, const bf16* k, const bf16* v, const bf16* out, const bf16* grad,
                                         const float* row_sums, bf16* q_grad, bf16* k_grad, bf16* v_grad,
                                         const int64_t* starts, int64_t sequences, int64_t heads, int64_t dimension,
                                         const int64_t* strides, float scale) {
    const Strided queries{q, strides[0], strides[1]}, keys{k, strides[2], strides[3]}, values{v, strides[4], strides[5]};
    const Strided outputs{out, strides[6], strides[7]}, wanted{grad, strides[8], strides[9]};
    const Gradients gradients{{q_grad, strides[10], strides[11]},
                              {k_grad, strides[12], strides[13]},
                              {v_grad, strides[14], strides[15]}};
    const int64_t tokens = starts[sequences];
    auto run = [&](auto kernel) {
        return each_head(starts, sequences, heads, [&](int64_t first, int64_t head, int length) {
            const float* sums = row_sums + head * tokens + first;
            return kernel(queries, keys, values, outputs, wanted, sums, gradients, first, head, length, scale);
        });
    };
    switch (dimension) {
        case 32: return run(backward<32>);
        case 64: return run(backward<64>);
        case 96: return run(backward<96>);
        case 128: return run(backward<128>);
    }
    return UNSUPPORTED_DIMENSION;
}
