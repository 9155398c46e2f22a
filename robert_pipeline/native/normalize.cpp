// Layer normalisation of a sum, bfloat16 in and out, float32 inside; AVX-512 with BF16. Runs in the caller's thread.

#include <immintrin.h>

#include <cmath>
#include <cstdint>

namespace {

using bf16 = uint16_t;

inline __m512 load(const bf16* from) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from)), 16));
}

}  // namespace

// x[rows][width] = normalised (x + y) * weight + bias, each row for itself. `width` is a multiple of 16.
extern "C" void robert_add_normalize(bf16* x, const bf16* y, const float* weight, const float* bias, int64_t rows,
                                     int64_t width, float epsilon) {
    for (int64_t row = 0; row < rows; row++, x += width, y += width) {
        // Two passes over the row, which is in the first-level cache: exact where the mean is far from zero.
        __m512 sums[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
        for (int64_t d = 0; d < width; d += 16)
            sums[d / 16 % 2] = _mm512_add_ps(sums[d / 16 % 2], _mm512_add_ps(load(x + d), load(y + d)));
        const float mean = _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1])) / float(width);
        const __m512 middle = _mm512_set1_ps(mean);
        __m512 squares[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
        for (int64_t d = 0; d < width; d += 16) {
            const __m512 off = _mm512_sub_ps(_mm512_add_ps(load(x + d), load(y + d)), middle);
            squares[d / 16 % 2] = _mm512_fmadd_ps(off, off, squares[d / 16 % 2]);
        }
        const float variance = _mm512_reduce_add_ps(_mm512_add_ps(squares[0], squares[1])) / float(width);
        const __m512 scale = _mm512_set1_ps(1.0f / std::sqrt(variance + epsilon));
        for (int64_t d = 0; d < width; d += 16) {
            const __m512 off = _mm512_sub_ps(_mm512_add_ps(load(x + d), load(y + d)), middle);
            const __m512 out = _mm512_fmadd_ps(_mm512_mul_ps(off, scale), _mm512_loadu_ps(weight + d), _mm512_loadu_ps(bias + d));
            _mm256_storeu_si256((__m256i*)(x + d), (__m256i)_mm512_cvtneps_pbh(out));
        }
    }
}
