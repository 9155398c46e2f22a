// Multi-head attention over packed sequences, bfloat16 in and out, float32 inside; AVX-512 with BF16, and AMX where the
// compiler is told so.
//
// Sequences lie one after the other: q, k, v are [tokens, heads, dim], and no token sees one of another sequence. A call
// runs in the caller's thread; callers run one batch a core. Every head of every sequence is one task: its keys and values
// are rearranged once for the products, then blocks of query rows go through scores, softmax and values while they are in
// the first-level cache. Scores are never written to memory.
//
// Forward keeps the base-2 log-sum-exp of each row where asked to; backward recomputes the probabilities from it
// (Dao et al. 2022, "FlashAttention", appendix B).

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#ifdef __AMX_BF16__
#include "products_amx.h"
#else
#include "products_avx512.h"
#endif
#include "scratch.h"

namespace {

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

thread_local Scratch scratch;

// Which of 16 columns from `j` on are of the sequence.
inline __mmask16 columns_from(int j, int length) {
    return length - j >= 16 ? __mmask16(0xffff) : length > j ? __mmask16((1u << (length - j)) - 1) : __mmask16(0);
}

// A block of rows side by side, zeros behind them.
template <int D>
void copy_rows(const bf16* rows, int64_t stride, int count, int room, bf16* out) {
    for (int r = 0; r < room; r++)
        for (int d = 0; d < D; d += 32)
            _mm512_storeu_si512(out + r * D + d, r < count ? load(rows + r * stride + d) : _mm512_setzero_si512());
}

// What the weights of each row add up to, rounded as they are: what they multiply is then weighed by 1 in all.
struct RowSums {
    __m256 of[FORWARD_ROWS];
    RowSums() {
        for (__m256& sum : of) sum = _mm256_setzero_ps();
    }
    void add(int row, __m256i weights) {
        const __m256i ones = _mm256_set1_epi16(0x3f80);
        of[row] = _mm256_dpbf16_ps(of[row], (__m256bh)weights, (__m256bh)ones);
    }
    // False where a total is so large or small that weights could have been lost to the range of floats.
    bool totals(int rows, float* out) const {
        bool in_range = true;
        for (int r = 0; r < rows; r++) {
            out[r] = _mm512_reduce_add_ps(_mm512_zextps256_ps512(of[r]));
            in_range &= out[r] > 0x1p-60f && out[r] < 0x1p60f;
        }
        return in_range;
    }
};

// Scores of columns `from` to `to` become weights, 2^(score * factor), zero from `length` on. A row's weights take
// the place of its scores, which are read before: half the memory in the cache.
inline void weigh(float* scores, int padded, int rows, int from, int to, int length, __m512 factor, RowSums& sums) {
    for (int j = from; j < to; j += 16) {
        const __mmask16 columns = columns_from(j, length);
        for (int r = 0; r < rows; r++) {
            const float* row = scores + size_t(r) * padded;
            const __m256i weights = rounded(power_of_two(_mm512_loadu_ps(row + j), factor, columns));
            sums.add(r, weights);
            _mm256_storeu_si256((__m256i*)((bf16*)row + j), weights);
        }
    }
}

// Subtracts from each row's scores the largest of them, which `tops` gets. What is far below it stays within what
// `power_of_two` takes; NaN stays NaN, since a maximum with one is its second operand.
void lower(float* scores, int padded, int rows, int length, float* tops) {
    for (int r = 0; r < rows; r++) {
        float* row = scores + size_t(r) * padded;
        __m512 found = _mm512_set1_ps(-INFINITY);
        for (int j = 0; j < length; j += 16)
            found = _mm512_mask_max_ps(found, columns_from(j, length), found, _mm512_loadu_ps(row + j));
        tops[r] = _mm512_reduce_max_ps(found);
        for (int j = 0; j < length; j += 16)
            _mm512_storeu_ps(row + j, _mm512_max_ps(_mm512_set1_ps(-0x1p40f),
                                                    _mm512_sub_ps(_mm512_loadu_ps(row + j), _mm512_set1_ps(tops[r]))));
    }
}

template <int D>
bool forward(const Strided& q, const Strided& k, const Strided& v, const StridedOut& out, float* row_sums, int64_t first,
             int64_t head, int length, float scale) {
    const int padded = (length + COLUMNS - 1) / COLUMNS * COLUMNS;
    Layout layout;
    size_t keys_at = layout.add(size_t(D / 2) * padded, 4), values_at = layout.add(size_t(padded / 2) * D, 4);
    size_t query_at = layout.add(FORWARD_ROWS * D, 2), scores_at = layout.add(size_t(FORWARD_ROWS) * padded, 4);
    size_t mixed_at = layout.add(FORWARD_ROWS * D, 4);
    char* base = scratch.of(layout.bytes);
    if (!base) return false;
    auto* keys = (uint32_t*)(base + keys_at);
    auto* values = (uint32_t*)(base + values_at);
    auto* query = (bf16*)(base + query_at);
    auto* scores = (float*)(base + scores_at);
    auto* mixed = (float*)(base + mixed_at);
    transpose_pairs<D>(k.at(first, head), k.row, length, padded, keys);
    interleave_rows(v.at(first, head), v.row, length, padded, D, values);
    const __m512 factor = _mm512_set1_ps(scale * LOG2_E);
    for (int start = 0; start < length; start += FORWARD_ROWS) {
        const int rows = length - start < FORWARD_ROWS ? length - start : FORWARD_ROWS;
        copy_rows<D>(q.at(first + start, head), q.row, rows, FORWARD_ROWS, query);
        auto score = [&](int from, int to) {
            product((const uint32_t*)query, D / 2, keys + from, padded, D / 2, scores + from, padded, rows, to - from);
        };
        // Softmax subtracts a row's largest score so that nothing overflows. Without it, weights follow from scores as
        // these come, and the products of the next columns run beside them. Rows whose weights leave the range are
        // computed again; within it, weighted values overflow from 2^67 on.
        float tops[FORWARD_ROWS] = {}, totals[FORWARD_ROWS];
        RowSums sums;
        auto end_of = [&](int from) { return padded - from < SCORE_COLUMNS ? padded : from + SCORE_COLUMNS; };
        score(0, end_of(0));
        for (int from = 0, to; from < padded; from = to) {
            to = end_of(from);
            if (to < padded) score(to, end_of(to));
            weigh(scores, padded, rows, from, to, length, factor, sums);
        }
        if (!sums.totals(rows, totals)) {
            score(0, padded);
            lower(scores, padded, rows, length, tops);
            sums = RowSums();
            weigh(scores, padded, rows, 0, padded, length, factor, sums);
            sums.totals(rows, totals);
        }
        if (row_sums)
            for (int r = 0; r < rows; r++) row_sums[start + r] = tops[r] * scale * LOG2_E + std::log2(totals[r]);
        product((const uint32_t*)scores, padded, values, D, padded / 2, mixed, D, rows, D);
        for (int r = 0; r < rows; r++)
            for (int d = 0; d < D; d += 16)
                store_bf16(out.at(first + start + r, head) + d,
                           _mm512_mul_ps(_mm512_loadu_ps(mixed + r * D + d), _mm512_set1_ps(1.0f / totals[r])));
    }
    return true;
}

struct Gradients {
    StridedOut q, k, v;
};

template <int D>
bool backward(const Strided& q, const Strided& k, const Strided& v, const Strided& out, const Strided& grad,
              const float* row_sums, const Gradients& to, int64_t first, int64_t head, int length, float scale) {
    const int padded = (length + COLUMNS - 1) / COLUMNS * COLUMNS;
    Layout layout;
    size_t keys_at = layout.add(size_t(D / 2) * padded, 4), values_at = layout.add(size_t(D / 2) * padded, 4);
    size_t key_rows_at = layout.add(size_t(padded / 2) * D, 4);
    size_t query_at = layout.add(BACKWARD_ROWS * D, 2), gradient_at = layout.add(BACKWARD_ROWS * D, 2);
    size_t scores_at = layout.add(size_t(BACKWARD_ROWS) * padded, 4), slopes_at = layout.add(size_t(BACKWARD_ROWS) * padded, 4);
    size_t pairs_at = layout.add(size_t(BACKWARD_ROWS / 2) * padded, 4);
    size_t row_pairs_at = layout.add(size_t(BACKWARD_ROWS / 2) * D, 4), query_sums_at = layout.add(BACKWARD_ROWS * D, 4);
    size_t key_sums_at = layout.add(size_t(padded) * D, 4), value_sums_at = layout.add(size_t(padded) * D, 4);
    char* base = scratch.of(layout.bytes);
    if (!base) return false;
    auto* keys = (uint32_t*)(base + keys_at);
    auto* values = (uint32_t*)(base + values_at);
    auto* key_rows = (uint32_t*)(base + key_rows_at);
    auto* query = (bf16*)(base + query_at);
    auto* gradient = (bf16*)(base + gradient_at);
    auto* scores = (float*)(base + scores_at);
    auto* slopes = (float*)(base + slopes_at);
    auto* pairs = (uint32_t*)(base + pairs_at);
    auto* row_pairs = (uint32_t*)(base + row_pairs_at);
    auto* query_sums = (float*)(base + query_sums_at);
    auto* key_sums = (float*)(base + key_sums_at);
    auto* value_sums = (float*)(base + value_sums_at);
    transpose_pairs<D>(k.at(first, head), k.row, length, padded, keys);
    transpose_pairs<D>(v.at(first, head), v.row, length, padded, values);
    interleave_rows(k.at(first, head), k.row, length, padded, D, key_rows);
    memset(key_sums, 0, size_t(padded) * D * 4);
    memset(value_sums, 0, size_t(padded) * D * 4);
    const __m512 factor = _mm512_set1_ps(scale * LOG2_E), scales = _mm512_set1_ps(scale), one = _mm512_set1_ps(1.0f);
    for (int start = 0; start < length; start += BACKWARD_ROWS) {
        const int rows = length - start < BACKWARD_ROWS ? length - start : BACKWARD_ROWS;
        const int paired = WHOLE_BLOCKS ? BACKWARD_ROWS : (rows + 1) & ~1;
        copy_rows<D>(q.at(first + start, head), q.row, rows, BACKWARD_ROWS, query);
        copy_rows<D>(grad.at(first + start, head), grad.row, rows, BACKWARD_ROWS, gradient);
        product((const uint32_t*)query, D / 2, keys, padded, D / 2, scores, padded, rows, padded);
        product((const uint32_t*)gradient, D / 2, values, padded, D / 2, slopes, padded, rows, padded);
        for (int r = 0; r < rows; r++) {
            const bf16 *result = out.at(first + start + r, head), *wanted = gradient + r * D;
            __m512 dots = _mm512_setzero_ps();
            for (int d = 0; d < D; d += 32) dots = dot_pairs(dots, load(result + d), load(wanted + d));
            const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(dots));
            const __m512 sum = _mm512_set1_ps(row_sums[start + r]);
            float *score = scores + size_t(r) * padded, *slope = slopes + size_t(r) * padded;
            // Weights and changes take the place of what they are computed from, as in `forward`.
            for (int j = 0; j < padded; j += 16) {
                const __m512 weight =
                    power_of_two(_mm512_fmsub_ps(_mm512_loadu_ps(score + j), factor, sum), one, columns_from(j, length));
                const __m512 change =
                    _mm512_mul_ps(_mm512_mul_ps(weight, scales), _mm512_sub_ps(_mm512_loadu_ps(slope + j), mean));
                store_bf16((bf16*)score + j, weight);
                store_bf16((bf16*)slope + j, change);
            }
        }
        product((const uint32_t*)slopes, padded, key_rows, D, padded / 2, query_sums, D, rows, D);
        for (int r = 0; r < rows; r++)
            for (int d = 0; d < D; d += 16)
                store_bf16(to.q.at(first + start + r, head) + d, _mm512_loadu_ps(query_sums + r * D + d));
        interleave_rows((const bf16*)scores, 2 * padded, rows, paired, padded, pairs);
        interleave_rows(gradient, D, rows, paired, D, row_pairs);
        add_transposed_product<D>(pairs, padded, row_pairs, paired / 2, length, value_sums);
        interleave_rows((const bf16*)slopes, 2 * padded, rows, paired, padded, pairs);
        interleave_rows(query, D, rows, paired, D, row_pairs);
        add_transposed_product<D>(pairs, padded, row_pairs, paired / 2, length, key_sums);
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
    const Unit unit;
    for (int64_t sequence = 0; sequence < sequences; sequence++) {
        const int64_t length = starts[sequence + 1] - starts[sequence];
        for (int64_t head = 0; length > 0 && head < heads; head++)
            if (!work(starts[sequence], head, int(length))) return OUT_OF_MEMORY;
    }
    return DONE;
}

}  // namespace

// To be called once in a process before the others; 0 where the system does not let it use the instructions.
extern "C" int robert_attention_prepare() { return prepare_process(); }

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
