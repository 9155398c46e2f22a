// Vectors of bfloat16 pairs, as vdpbf16ps and the AMX tiles take them; AVX-512 with BF16.

#pragma once

#include <immintrin.h>

#include <cstdint>

namespace {

using bf16 = uint16_t;

inline __m512i load(const void* from) { return _mm512_loadu_si512(from); }

inline __m512 dot_pairs(__m512 sum, __m512i a, __m512i b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }

inline __m512 widened(__m256i values) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(values), 16));
}

inline __m512 widened(const bf16* from) { return widened(_mm256_loadu_si256((const __m256i*)from)); }

inline __m256i rounded(__m512 values) { return (__m256i)_mm512_cvtneps_pbh(values); }

inline void store_bf16(bf16* to, __m512 values) { _mm256_storeu_si256((__m256i*)to, rounded(values)); }

constexpr float LOG2_E = 1.44269504088896341f;

// 2^(x * factor), relative error below 1e-4: what is rounded to bfloat16 needs no more. 0 and infinity beyond the range
// of floats, something that is not finite from 2^68 on either side, and 0 in lanes that are not of the mask.
inline __m512 power_of_two(__m512 x, __m512 factor, __mmask16 lanes = 0xffff) {
    const __m512 no_fraction = _mm512_set1_ps(0x1.8p23f);  // a float so large has no bits behind the point
    const __m512 whole = _mm512_sub_ps(_mm512_fmadd_ps(x, factor, no_fraction), no_fraction);
    const __m512 rest = _mm512_fmsub_ps(x, factor, whole);
    __m512 power = _mm512_set1_ps(5.517166681e-2f);
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(2.426111351e-1f));
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(6.932609870e-1f));
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(9.999280728e-1f));
    return _mm512_maskz_scalef_ps(lanes, power, whole);
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

}  // namespace
