// What lies between a layer's matrix products, bfloat16 in and out, float32 inside; AVX-512 with BF16. Runs in the
// caller's thread.

#include <cmath>

#include "vectors.h"

namespace {

constexpr int64_t LARGEST_WIDTH = 4096;

// Phi - 1/2 of the normal distribution's Phi, for values between -4 and 4: an odd polynomial, fitted for the smallest
// largest error of x * Phi(x), 5e-5: less than what rounding to bfloat16 leaves of values from 1/32 on.
inline __m512 half_phi(__m512 x) {
    const __m512 square = _mm512_mul_ps(x, x);
    __m512 phi = _mm512_set1_ps(-1.316748710e-09f);
    phi = _mm512_fmadd_ps(phi, square, _mm512_set1_ps(1.052009111e-07f));
    phi = _mm512_fmadd_ps(phi, square, _mm512_set1_ps(-3.683745945e-06f));
    phi = _mm512_fmadd_ps(phi, square, _mm512_set1_ps(7.522317901e-05f));
    phi = _mm512_fmadd_ps(phi, square, _mm512_set1_ps(-1.009320491e-03f));
    phi = _mm512_fmadd_ps(phi, square, _mm512_set1_ps(9.517234750e-03f));
    phi = _mm512_fmadd_ps(phi, square, _mm512_set1_ps(-6.591198593e-02f));
    phi = _mm512_fmadd_ps(phi, square, _mm512_set1_ps(3.986909389e-01f));
    return _mm512_mul_ps(phi, x);
}

// A random number of 32 bits for each lane of each counter: two rounds of multiplication and shifts (Steele, Lea and
// Flood 2014, "Fast splittable pseudorandom number generators", after MurmurHash3's finalizer).
inline __m512i random_bits(__m512i counter) {
    counter = _mm512_xor_si512(counter, _mm512_srli_epi32(counter, 16));
    counter = _mm512_mullo_epi32(counter, _mm512_set1_epi32(int(0x85ebca6b)));
    counter = _mm512_xor_si512(counter, _mm512_srli_epi32(counter, 13));
    counter = _mm512_mullo_epi32(counter, _mm512_set1_epi32(int(0xc2b2ae35)));
    return _mm512_xor_si512(counter, _mm512_srli_epi32(counter, 16));
}

}  // namespace

// x[rows][width] = normalised (x + y) * weight + bias, each row for itself. `width` is a multiple of 16, at most 4096.
extern "C" void robert_add_normalize(bf16* x, const bf16* y, const float* weight, const float* bias, int64_t rows,
                                     int64_t width, float epsilon) {
    alignas(64) float sum[LARGEST_WIDTH];
    for (int64_t row = 0; row < rows; row++, x += width, y += width) {
        // The mean first, then the variance around it: exact where the mean is far from zero.
        __m512 sums[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
        for (int64_t d = 0; d < width; d += 16) {
            const __m512 both = _mm512_add_ps(widened(x + d), widened(y + d));
            _mm512_store_ps(sum + d, both);
            sums[d / 16 % 2] = _mm512_add_ps(sums[d / 16 % 2], both);
        }
        const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1])) / float(width));
        __m512 squares[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
        for (int64_t d = 0; d < width; d += 16) {
            const __m512 off = _mm512_sub_ps(_mm512_load_ps(sum + d), mean);
            squares[d / 16 % 2] = _mm512_fmadd_ps(off, off, squares[d / 16 % 2]);
        }
        const float variance = _mm512_reduce_add_ps(_mm512_add_ps(squares[0], squares[1])) / float(width);
        const __m512 scale = _mm512_set1_ps(1.0f / std::sqrt(variance + epsilon));
        for (int64_t d = 0; d < width; d += 16) {
            const __m512 off = _mm512_mul_ps(_mm512_sub_ps(_mm512_load_ps(sum + d), mean), scale);
            store_bf16(x + d, _mm512_fmadd_ps(off, _mm512_loadu_ps(weight + d), _mm512_loadu_ps(bias + d)));
        }
    }
}

// out[count] = x * Phi(x): Hendrycks and Gimpel 2016, "Gaussian error linear units". `count` is a multiple of 16; `out`
// may be x.
extern "C" void robert_gelu(const bf16* x, bf16* out, int64_t count) {
    for (int64_t i = 0; i < count; i += 16) {
        const __m512 value = _mm512_max_ps(widened(x + i), _mm512_set1_ps(-4.0f));  // below, GELU is 0
        const __m512 phi = half_phi(_mm512_min_ps(value, _mm512_set1_ps(4.0f)));
        store_bf16(out + i, _mm512_fmadd_ps(value, phi, _mm512_mul_ps(value, _mm512_set1_ps(0.5f))));
    }
}

// out[count] = gradient * (Phi(x) + x * Phi'(x)), the gradient of x. `count` is a multiple of 16.
extern "C" void robert_gelu_gradient(const bf16* x, const bf16* gradient, bf16* out, int64_t count) {
    for (int64_t i = 0; i < count; i += 16) {
        const __m512 value = _mm512_min_ps(_mm512_max_ps(widened(x + i), _mm512_set1_ps(-4.0f)), _mm512_set1_ps(4.0f));
        const __m512 power = power_of_two(_mm512_mul_ps(value, value), _mm512_set1_ps(-0.5f * LOG2_E));
        const __m512 density = _mm512_mul_ps(power, _mm512_set1_ps(0.3989422804f));
        const __m512 phi = _mm512_add_ps(half_phi(value), _mm512_set1_ps(0.5f));
        store_bf16(out + i, _mm512_mul_ps(widened(gradient + i), _mm512_fmadd_ps(value, density, phi)));
    }
}

// out[count] = x * scale where a random byte is at least `threshold`, else 0. The same bytes for the same seed. `count`
// is a multiple of 16.
extern "C" void robert_dropout(const bf16* x, bf16* out, int64_t count, uint64_t seed, uint32_t threshold, float scale) {
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i key = _mm512_set1_epi32(int(seed >> 32)), limit = _mm512_set1_epi32(int(threshold));
    const __m512 scales = _mm512_set1_ps(scale);
    for (int64_t at = 0; at < count; at += 64) {
        const __m512i counter = _mm512_add_epi32(lanes, _mm512_set1_epi32(int(uint32_t(seed) + uint32_t(at / 4))));
        __m512i bits = random_bits(_mm512_xor_si512(random_bits(counter), key));
        for (int64_t i = at; i < at + 64 && i < count; i += 16) {
            const __mmask16 kept =
                _mm512_cmpge_epu32_mask(_mm512_and_si512(bits, _mm512_set1_epi32(255)), limit);
            bits = _mm512_srli_epi32(bits, 8);
            const __m512 value = widened(_mm256_loadu_si256((const __m256i*)(x + i)));
            store_bf16(out + i, _mm512_maskz_mul_ps(kept, value, scales));
        }
    }
}
