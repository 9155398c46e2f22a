// Gradients of a linear map's weight and bias: bfloat16 in and out, float32 inside; AMX and AVX-512 with BF16. Runs in
// the caller's thread.

#include <cstdlib>
#include <cstring>

#include "products_amx.h"
#include "scratch.h"

namespace {

thread_local Scratch scratch;

// Steps of 32 rows that are multiplied before sums go back to memory: one side's part of them stays in the cache.
constexpr int64_t BLOCK_STEPS = 32;
constexpr int64_t TILE = 256;  // values of 32 bits

// Rows [rows][columns] to tiles [columns / 16][steps]: pairs of neighbouring rows, 16 of them, side by side by columns,
// or with TRANSPOSED by pairs. Zeros behind the last row. Adds up columns where `sums` is given.
template <bool TRANSPOSED>
void pack(const bf16* from, int64_t rows, int64_t columns, int64_t steps, uint32_t* tiles, float* sums) {
    const __m256i none = _mm256_setzero_si256();
    if (sums) memset(sums, 0, columns * sizeof(float));
    for (int64_t step = 0; step < steps; step++)
        for (int64_t c = 0; c < columns; c += 16) {
            __m512 sum = _mm512_setzero_ps();
            __m512i pairs[16];
            for (int64_t p = 0; p < 16; p++) {
                const int64_t row = step * 32 + 2 * p;
                const bf16* at = from + row * columns + c;
                const __m256i low = row < rows ? _mm256_loadu_si256((const __m256i*)at) : none;
                const __m256i high = row + 1 < rows ? _mm256_loadu_si256((const __m256i*)(at + columns)) : none;
                pairs[p] = interleave(low, high);
                if (sums) sum = _mm512_add_ps(sum, _mm512_add_ps(widened(low), widened(high)));
            }
            if (TRANSPOSED) transpose_16x16(pairs);
            uint32_t* to = tiles + (c / 16 * steps + step) * TILE;
            for (int64_t p = 0; p < 16; p++) _mm512_store_si512(to + 16 * p, pairs[p]);
            if (sums) _mm512_storeu_ps(sums + c, _mm512_add_ps(_mm512_loadu_ps(sums + c), sum));
        }
}

// sums[32][32] += a · b over `count` steps, of two rows of tiles each, `steps` apart.
inline void add_product(const uint32_t* a, const uint32_t* b, int64_t steps, int64_t count, float* sums, int64_t row,
                        bool first) {
    const uint32_t *a1 = a + steps * TILE, *b1 = b + steps * TILE;
    if (first) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(0, sums, row * 4);
        _tile_loadd(1, sums + 16, row * 4);
        _tile_loadd(2, sums + 16 * row, row * 4);
        _tile_loadd(3, sums + 16 * row + 16, row * 4);
    }
    for (int64_t step = 0; step < count; step++) {
        _tile_loadd(4, a + step * TILE, 64);
        _tile_loadd(6, b + step * TILE, 64);
        _tile_loadd(7, b1 + step * TILE, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a1 + step * TILE, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, row * 4);
    _tile_stored(1, sums + 16, row * 4);
    _tile_stored(2, sums + 16 * row, row * 4);
    _tile_stored(3, sums + 16 * row + 16, row * 4);
}

}  // namespace

// To be called once in a process before the others; 0 where the system does not let it use the instructions.
extern "C" int robert_gradients_prepare() { return prepare_process(); }

// weight[outputs][inputs] = gradient^T · x, bias[outputs] = sum over rows of gradient[rows][outputs]; x[rows][inputs].
// Outputs and inputs are multiples of 32. 0 where there is no memory.
extern "C" int robert_linear_gradients(const bf16* gradient, const bf16* x, bf16* weight, bf16* bias, int64_t rows,
                                       int64_t outputs, int64_t inputs) {
    const int64_t steps = (rows + 31) / 32;
    Layout layout;
    size_t left_at = layout.add(size_t(outputs / 16 * steps) * TILE, 4);
    size_t right_at = layout.add(size_t(inputs / 16 * steps) * TILE, 4);
    size_t sums_at = layout.add(size_t(outputs) * inputs, 4), bias_at = layout.add(outputs, 4);
    char* base = scratch.of(layout.bytes);
    if (!base) return 0;
    auto *left = (uint32_t*)(base + left_at), *right = (uint32_t*)(base + right_at);
    auto *sums = (float*)(base + sums_at), *bias_sums = (float*)(base + bias_at);
    pack<true>(gradient, rows, outputs, steps, left, bias_sums);
    pack<false>(x, rows, inputs, steps, right, nullptr);
    written();
    const Unit unit;
    for (int64_t start = 0; start < steps; start += BLOCK_STEPS) {
        const int64_t count = steps - start < BLOCK_STEPS ? steps - start : BLOCK_STEPS;
        auto multiply = [&](int64_t o, int64_t i) {
            add_product(left + (o / 16 * steps + start) * TILE, right + (i / 16 * steps + start) * TILE, steps, count,
                        sums + o * inputs + i, inputs, start == 0);
        };
        if (outputs >= inputs)  // the narrower side is read again and again, and stays in the cache
            for (int64_t o = 0; o < outputs; o += 32)
                for (int64_t i = 0; i < inputs; i += 32) multiply(o, i);
        else
            for (int64_t i = 0; i < inputs; i += 32)
                for (int64_t o = 0; o < outputs; o += 32) multiply(o, i);
    }
    for (int64_t at = 0; at < outputs * inputs; at += 16) store_bf16(weight + at, _mm512_loadu_ps(sums + at));
    for (int64_t o = 0; o < outputs; o += 16) store_bf16(bias + o, _mm512_loadu_ps(bias_sums + o));
    return 1;
}
