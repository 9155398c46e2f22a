// Matrix products of bfloat16 pairs with AMX tiles. `products_avx512.h` has the same without them.

#pragma once

#include <sys/syscall.h>
#include <unistd.h>

#include "vectors.h"

namespace {

// Arrays are padded to so many columns, the blocks of rows have so many rows.
constexpr int COLUMNS = 32, FORWARD_ROWS = 32, BACKWARD_ROWS = 32;
// Columns of scores that are computed at once, while those before become weights.
constexpr int SCORE_COLUMNS = 32;
// Whether `add_transposed_product` reads whole blocks of rows.
constexpr bool WHOLE_BLOCKS = true;

// The tile unit of this thread, set up while one of these lives: eight tiles of 16 rows of 64 bytes.
struct Unit {
    Unit() {
        alignas(64) struct {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        } config;
        static_assert(sizeof(config) == 64, "as the processor reads it");
        asm volatile("" ::"r"(&config) : "memory");  // GCC does not know that all of it is read
        _tile_loadconfig(&config);
    }
    ~Unit() { _tile_release(); }
};

// Linux lends the tiles to processes that ask for them: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA).
inline bool prepare_process() { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

// GCC does not know that a tile load reads memory: what was written before must be there.
inline void written() { asm volatile("" ::: "memory"); }

// out[32 or 16][32] = a[32 or 16][steps] · b[steps][32], where a and b hold pairs along the steps.
template <bool TWO>
inline void product_block(const uint32_t* a, int64_t a_row, const uint32_t* b, int64_t b_row, int steps, float* out,
                          int64_t out_row) {
    _tile_zero(0);
    _tile_zero(1);
    if (TWO) {
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int step = 0; step < steps; step += 16) {
        _tile_loadd(4, a + step, a_row * 4);
        _tile_loadd(6, b + step * b_row, b_row * 4);
        _tile_loadd(7, b + step * b_row + 16, b_row * 4);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (TWO) {
            _tile_loadd(5, a + 16 * a_row + step, a_row * 4);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, out, out_row * 4);
    _tile_stored(1, out + 16, out_row * 4);
    if (TWO) {
        _tile_stored(2, out + 16 * out_row, out_row * 4);
        _tile_stored(3, out + 16 * out_row + 16, out_row * 4);
    }
}

// out[rows][columns] = a[rows][steps] · b[steps][columns]. Steps are a multiple of 16, columns of 32; of `a` and `out`
// whole tiles of 16 rows are read and written.
void product(const uint32_t* a, int64_t a_row, const uint32_t* b, int64_t b_row, int steps, float* out, int64_t out_row,
             int rows, int columns) {
    written();
    int m = 0;
    for (; m + 16 < rows; m += 32)
        for (int n = 0; n < columns; n += 32)
            product_block<true>(a + m * a_row, a_row, b + n, b_row, steps, out + m * out_row + n, out_row);
    for (; m < rows; m += 16)
        for (int n = 0; n < columns; n += 32)
            product_block<false>(a + m * a_row, a_row, b + n, b_row, steps, out + m * out_row + n, out_row);
}

// sums[length][D] += a^T · b, where a[pairs][a_row] and b[pairs][D] hold pairs of rows; 16 pairs are read, those from
// `pairs` on are zero. Of `sums` whole tiles of 16 rows are written.
template <int D>
void add_transposed_product(const uint32_t* a, int64_t a_row, const uint32_t* b, int pairs, int length, float* sums) {
    static_assert(BACKWARD_ROWS == 32, "one step of a tile");
    alignas(64) __m512i left[16];
    for (int j = 0; j < length; j += 16) {
        for (int i = 0; i < 16; i++) left[i] = load(a + i * a_row + j);
        transpose_16x16(left);
        written();
        _tile_loadd(4, left, 64);
        for (int d = 0; d < D; d += 32) {
            float* at = sums + int64_t(j) * D + d;
            _tile_loadd(0, at, D * 4);
            _tile_loadd(1, at + 16, D * 4);
            _tile_loadd(6, b + d, D * 4);
            _tile_loadd(7, b + d + 16, D * 4);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_stored(0, at, D * 4);
            _tile_stored(1, at + 16, D * 4);
        }
    }
}

}  // namespace
