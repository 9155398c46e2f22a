// Matrix products of bfloat16 pairs with vdpbf16ps. `products_amx.h` has the same for AMX tiles.

#pragma once

#include "vectors.h"

namespace {

// Arrays are padded to so many columns, the blocks of rows have so many rows.
constexpr int COLUMNS = 16, FORWARD_ROWS = 12, BACKWARD_ROWS = 32;
// Columns of scores that are computed at once, while those before become weights.
constexpr int SCORE_COLUMNS = 64;
// Whether `add_transposed_product` reads whole blocks of rows.
constexpr bool WHOLE_BLOCKS = false;

struct Unit {};

inline bool prepare_process() { return true; }

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

}  // namespace
